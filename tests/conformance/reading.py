"""What has come by one way of asking, whatever the way."""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.support.contract import Frame


class Reading:
    """Frames in order, and how it ended. `live_after` is the number of events before `live`."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.live_after: int | None = None
        self.refused: tuple[int, dict[str, Any]] | None = None
        self.is_over = False  # 204
        self.ended: str | None = None  # the status that a poll or a client says it ended with
        self.close_code: int | None = None
        self.signs_of_life = 0
        self.task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()

    def take(self, frame: Frame) -> None:
        if frame.type == "live":
            self.mark_live()
        self.frames.append(frame)
        self.changed()

    def mark_live(self) -> None:
        if self.live_after is None:
            self.live_after = len(self.events)
        self.changed()

    def refuse(self, status: int, problem: dict[str, Any]) -> None:
        self.refused = (status, problem)
        self.changed()

    async def lives(self) -> None:
        """Something came, if only a heartbeat. Goes on reading when it may."""
        self.signs_of_life += 1
        self.changed()
        await self._may_read.wait()

    def hold(self) -> None:
        """Take nothing from the socket any more, until `go_on`."""
        self._may_read.clear()

    def go_on(self) -> None:
        self._may_read.set()

    def changed(self) -> None:
        self._changed.set()

    @property
    def events(self) -> list[Frame]:
        """What is no word about the stream, and resets and gaps."""
        silent = ("hello", "live", "bookmark", "stream_end", "pong")
        return [frame for frame in self.frames if frame.type not in silent]

    @property
    def last_id(self) -> str | None:
        return next((frame.id for frame in reversed(self.frames) if frame.id is not None), None)

    def words(self, name: str) -> list[Frame]:
        """The control frames of a type."""
        return [frame for frame in self.frames if frame.type == name]

    async def change(self) -> None:
        """Wait for whatever is next."""
        self._changed.clear()
        await self._changed.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it is so, or the reading is over. Raise what the reading raised."""
        assert self.task is not None
        while not condition() and not self.task.done():
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait([changed, self.task], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        if self.task.done() and not self.task.cancelled():
            self.task.result()
