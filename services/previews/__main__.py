"""`python -m services.previews`: the previews service alone."""

import sys

from services.previews.app import PreviewsService
from shared.edge.process import main

if __name__ == "__main__":
    sys.exit(main([PreviewsService], lambda url: print(f"previews at {url}", flush=True)))
