"""All scenes, in the order in which they are played: what an earlier one has made is still there in a later one."""

from collections.abc import Awaitable, Callable

from tests.screenshots import of_previews, of_runs, of_tasks
from tests.screenshots.stage import Stage

Scene = Callable[[Stage], Awaitable[None]]

SCENES: tuple[Scene, ...] = (*of_tasks.SCENES, *of_runs.SCENES, *of_previews.SCENES, of_tasks.start)
