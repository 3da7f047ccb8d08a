"""How the thing that was watched ended, as an exit code."""

from collections.abc import Mapping

GOOD, FAILED, USAGE, CANCELLED, TIMED_OUT, OTHER = 0, 1, 2, 3, 4, 5
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

EXIT_CODES: Mapping[str, int] = {
    "succeeded": GOOD,
    "completed": GOOD,
    "stopped": GOOD,
    "failed": FAILED,
    "exited": FAILED,
    "lost": FAILED,
    "cancelled": CANCELLED,
    "timed_out": TIMED_OUT,
}


def exit_code(status: str | None) -> int:
    """0 for a good end, 1 failed, 3 cancelled, 4 timed out, 5 for no known end."""
    return EXIT_CODES.get(status or "", OTHER)


def worst(codes: list[int]) -> int:
    """Of several: a failure counts more than a cancellation, and that more than a good end."""
    order = (GOOD, CANCELLED, TIMED_OUT, OTHER, FAILED)
    return max(codes, key=order.index, default=OTHER)
