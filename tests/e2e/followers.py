"""What the browser client hands over in a page, as a test sees it."""

import asyncio
from collections.abc import Callable
from typing import Any

from playwright.async_api import Error, Page

from tests.support.contract import Frame

SECONDS = 60  # nothing here takes that long, not even on a busy machine
BARE = "/web/shared/stream.js"  # a document of our origin that follows nothing by itself

FOLLOW = """async ([key, url, options]) => {
    const { follow } = await import("/web/shared/stream.js");
    const note = (kind) => (what) => tell(key, kind, what);
    window.followed = { ...window.followed, [key]: follow(url, {
        ...options,
        onFrames: note("frames"), onStatus: note("status"),
        onGap: note("gap"), onReset: note("reset"), onEnd: note("end"),
    }) };
}"""

RESOURCE = """async ([key, url, streamUrl, options]) => {
    const { LiveResource, isAfter } = await import("/web/shared/stream.js");
    const note = (kind) => (what) => tell(key, kind, what);
    const rows = (body) => body.data ?? [body];
    window.followed = { ...window.followed, [key]: new LiveResource({
        url, streamUrl, ...options,
        readState: (body) => Object.fromEntries(rows(body).map(({ id, status, rev }) => [id, { status, rev }])),
        applyEvent: (state, event) => {
            const { run_id, task_id, status, rev } = event;
            if (event.type === "deleted") delete state[task_id ?? run_id];
            else if (status !== undefined) state[task_id ?? run_id] = { status, rev };
        },
        onChange: (state, frames) => { note("frames")(frames); note("state")(state); },
        onStatus: note("status"), onReset: note("reset"),
    }).start() };
}"""


class Follower:
    """One `follow` or `LiveResource` in a page."""

    def __init__(self, page: Page, key: str) -> None:
        self.key = key
        self.frames: list[Frame] = []
        self.statuses: list[dict[str, Any]] = []
        self.told: list[tuple[str, Any]] = []
        self.state: dict[str, Any] = {}
        self._page = page
        self._news = asyncio.Event()

    def take(self, kind: str, what: Any) -> None:
        if kind == "frames":
            self.frames += [Frame(frame["id"], frame["event"]) for frame in what]
        elif kind == "status":
            self.statuses.append(what)
        elif kind == "state":
            self.state = what
        self.told.append((kind, what))
        self._news.set()

    async def until(self, wanted: Callable[["Follower"], bool]) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                while not wanted(self):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            words = [(status["phase"], status["why"], status["transport"]) for status in self.statuses]
            raise AssertionError(f"it did not come to it; {len(self.frames)} frames and {words}") from None

    async def until_phase(self, phase: str) -> dict[str, Any]:
        """Until it is in this phase; the status."""
        await self.until(lambda follower: bool(follower.statuses) and follower.statuses[-1]["phase"] == phase)
        return self.statuses[-1]

    async def until_it_was(self, phase: str, since: int = 0) -> None:
        """Until it is, or has been since so many statuses."""
        await self.until(lambda follower: phase in follower.phases[since:])

    async def call(self, method: str) -> None:
        await self._page.evaluate("([key, method]) => followed[key][method]()", [self.key, method])

    @property
    def ids(self) -> list[str | None]:
        return [frame.id for frame in self.frames]

    @property
    def phases(self) -> list[str]:
        return [status["phase"] for status in self.statuses]


class Followers:
    """All of one page."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._all: dict[str, Follower] = {}
        self._failed: list[str] = []
        page.on("requestfailed", lambda request: self._failed.append(f"{request.url}: {request.failure}"))

    async def open(self, url: str) -> "Followers":
        await self._page.expose_function("tell", lambda key, kind, what: self._all[key].take(kind, what))
        await self._page.goto(url + BARE)
        return self

    async def follow(self, url: str, **options: Any) -> Follower:
        return await self._begin(FOLLOW, url, options)

    async def resource(self, url: str, stream_url: str | None, **options: Any) -> Follower:
        return await self._begin(RESOURCE, url, stream_url, options)

    async def _begin(self, script: str, *arguments: Any) -> Follower:
        key = f"f{len(self._all)}"
        self._all[key] = follower = Follower(self._page, key)
        try:
            await self._page.evaluate(script, [key, *arguments])
        except Error as error:
            raise AssertionError(f"{error.message}; what failed: {self._failed}") from error
        return follower
