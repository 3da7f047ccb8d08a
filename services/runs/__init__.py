"""Runs: one execution each, by one or more workers, told live from its first event to its last."""
