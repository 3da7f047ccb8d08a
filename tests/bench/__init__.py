"""The benchmark behind `make bench`: our costs beside two baselines', as ratios within one run."""
