"""How long to wait before trying again. Pure: chance comes in as an argument."""

FIRST_SECONDS = 0.25
CAP_SECONDS = 10.0
MAX_ASKED_SECONDS = 300.0  # a server that asks for more is asked again earlier: its clock may be wrong


def pause(failures: int, chance: float, asked_seconds: float | None = None) -> float:
    """Seconds to wait after so many failures in a row; 0 after none.

    Full jitter: anywhere from nothing to a bound that doubles with each failure up to CAP_SECONDS, as `chance` (0 to 1)
    has it, so that clients that were cut off together do not come back together. What the server asks for comes on
    top of that: nobody is back earlier, and not all at the same moment.
    """
    bound = min(CAP_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 20)) if failures > 0 else 0.0
    return chance * bound + min(max(asked_seconds or 0.0, 0.0), MAX_ASKED_SECONDS)
