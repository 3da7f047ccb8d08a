"""The browser client, `shared/web/stream.js`, in a real Chromium."""

import asyncio
import itertools
from typing import Any

from playwright.async_api import BrowserContext, Page

from tests.conformance.reading import Reading
from tests.conformance.ways import Asked, Kind, Way
from tests.support.contract import Frame

BARE = "/web/shared/stream.js"  # a document of our origin that follows nothing by itself
FOLLOW = """async ([key, url, options]) => {
    const { follow } = await import("/web/shared/stream.js");
    const note = (kind) => (what) => tell(key, kind, what);
    window.followed = { ...window.followed, [key]: follow(url, {
        ...options,
        onFrames: note("frames"), onGap: note("gap"), onReset: note("reset"),
        onLive: note("live"), onStatus: note("status"),
    }) };
}"""
STOP = "(key) => window.followed?.[key]?.stop()"

_keys = itertools.count(1)


class Pages:
    """One page an origin, in which any number of streams is followed."""

    def __init__(self, context: BrowserContext) -> None:
        self._context = context
        self._pages: dict[str, Page] = {}
        self._opening = asyncio.Lock()
        self.readings: dict[str, Reading] = {}

    async def of(self, base: str) -> Page:
        async with self._opening:
            if base not in self._pages:
                page = await self._context.new_page()
                await page.expose_function("tell", self._told)
                await page.goto(base + BARE)
                self._pages[base] = page
        return self._pages[base]

    def _told(self, key: str, kind: str, what: Any) -> None:
        reading = self.readings.get(key)
        if reading is None:
            return
        if kind == "frames":
            for frame in what:
                reading.take(Frame(frame["id"], frame["event"]))
        elif kind in ("gap", "reset"):
            reading.take(Frame(None, {**what, "type": kind}))
        elif kind == "live":
            reading.mark_live()
        elif what["phase"] == "ended":
            reading.ended = f"{what['reason']} {what['outcome']}"
        elif what["phase"] == "refused":
            reading.refuse(what["problem"]["status"], what["problem"])
        reading.changed()


class BrowserClient(Way):
    """`follow` in a page; `auto` is the page's one WebSocket to the service."""

    kind: Kind = "client"
    in_page = True

    def __init__(self, pages: Pages, transport: str) -> None:
        self.name = f"browser client, {transport}"
        self._pages = pages
        self._transport = transport

    def can_ask(self, asked: Asked) -> bool:
        return not asked.by_header and "on_reset" not in asked.parameters

    async def read(self, asked: Asked, reading: Reading) -> None:
        parameters = dict(asked.parameters)
        types, lossless = parameters.pop("types", None), parameters.pop("lossless", "0") == "1"
        options: dict[str, Any] = {"transport": self._transport, "lossless": lossless, "after": asked.after}
        if types is not None:
            options["types"] = types.split(",")
        page, key = await self._pages.of(asked.base), f"{next(_keys)}"
        self._pages.readings[key] = reading
        try:
            await page.evaluate(FOLLOW, [key, asked.path_with(parameters, "stream"), options])
            while reading.ended is None and reading.refused is None:
                await reading.change()
        finally:
            del self._pages.readings[key]
            await page.evaluate(STOP, key)
