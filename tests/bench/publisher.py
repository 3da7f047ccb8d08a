"""Publishes numbered events one by one over HTTP and prints when each was sent, by CLOCK_MONOTONIC, in ns.

Reads `port first count pause` from its arguments, and one prepared request per line (hexadecimal) from stdin.
"""

import sys
import time

from tests.bench.control import Control


def main() -> None:
    """Publish each request after a pause, then print `number sent acknowledged` for each."""
    port, first, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    requests = [bytes.fromhex(line) for line in sys.stdin]
    control = Control(port)
    lines = []
    for number, request in enumerate(requests, first):
        sent = time.monotonic_ns()
        control.request(request)
        lines.append(f"{number} {sent} {time.monotonic_ns()}")
        time.sleep(pause)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
