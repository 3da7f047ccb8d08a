"""Take all pictures, or those of the scenes that are named: `make screenshots ARGS="board start"`."""

import asyncio
import shutil
import sys
from pathlib import Path

from tests.screenshots.scenes import SCENES
from tests.screenshots.stage import set_up

ROOT = Path(__file__).parents[2]
TAKEN = ROOT / "build" / "screenshots"
SHOWN = ROOT / "docs" / "screenshots"
IN_README = ("tasks-wide-light", "runs-wide-dark", "preview-terminal-wide-light")
MOST_BYTES = 200_000


async def main(names: list[str]) -> int:
    known = {scene.__name__: scene for scene in SCENES}
    strange = [name for name in names if name not in known]
    chromium = shutil.which("chromium")
    if strange or chromium is None:
        fault = f"There is no scene {strange[0]}; there are: {', '.join(known)}" if strange else "Chromium is missing"
        print(fault, file=sys.stderr)
        return 2
    TAKEN.mkdir(parents=True, exist_ok=True)
    async with set_up(Path(chromium), TAKEN) as stage:
        for name in names or known:
            print(name, flush=True)
            await known[name](stage)
    return _show()


def _show() -> int:
    """Put those of the README where it finds them."""
    SHOWN.mkdir(exist_ok=True)
    for name in IN_README:
        picture = TAKEN / f"{name}.png"
        if picture.exists():
            shutil.copy(picture, SHOWN)
    large = [picture.name for picture in SHOWN.iterdir() if picture.stat().st_size > MOST_BYTES]
    if large:
        print(f"Too large for the repository, over {MOST_BYTES:,} bytes: {', '.join(large)}", file=sys.stderr)
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
