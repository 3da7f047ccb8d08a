"""`python -m services.tasks`: the tasks service alone."""

import sys

from services.tasks.app import TasksService
from shared.edge.process import main

if __name__ == "__main__":
    sys.exit(main([TasksService], lambda url: print(f"tasks at {url}", flush=True)))
