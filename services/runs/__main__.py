"""`python -m services.runs`: the runs service alone."""

import sys

from services.runs.app import RunsService
from shared.edge.process import main

if __name__ == "__main__":
    sys.exit(main([RunsService], lambda url: print(f"runs at {url}", flush=True)))
