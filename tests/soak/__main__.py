"""`make soak`: SECONDS=600 READERS=2000; its report goes to build/soak."""

import argparse
import asyncio
import os
import random
import signal
import sys
from pathlib import Path

from tests.soak import report
from tests.soak.soak import Outcome, Plan, soak


async def until_told(plan: Plan) -> Outcome:
    """A round that SIGTERM ends, with all that it has started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await soak(plan)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--readers", type=int, default=2_000)
    parser.add_argument("--report", type=Path, default=Path("build/soak"))
    given = parser.parse_args()
    seed = os.environ.get("TAILRACE_TEST_SEED") or str(random.randrange(2**32))
    print(f"TAILRACE_TEST_SEED={seed}")
    try:
        outcome = asyncio.run(until_told(Plan(seconds=given.seconds, readers=given.readers, seed=seed)))
    except asyncio.CancelledError:
        return 130
    report.write(outcome, given.report)
    print(report.text(outcome))
    print(f"Written: {given.report}/soak.txt, soak.json, soak.html")
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
