"""Three clients that nobody of ours wrote, each following one run over cuts: curl, EventSource, websockets."""

import asyncio
import json
from collections.abc import Callable
from urllib.parse import urlsplit

from playwright.async_api import Page
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from shared.protocol.sse import SseDecoder
from tests.support.contract import Frame

SECONDS = 30  # nothing here takes that long, not even on a busy machine


class Watcher:
    """What one client has been sent, in order, over all its connections."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.frames: list[Frame] = []
        self.cuts = 0
        self._news = asyncio.Event()
        self._may_connect = asyncio.Event()
        self._may_connect.set()

    async def follow(self) -> None:
        """Connect, and again after each cut, until the stream has ended."""
        raise NotImplementedError

    def take(self, frame: Frame) -> None:
        self.frames.append(frame)
        self._news.set()

    def was_cut(self) -> None:
        """The client noticed; it may try again when the server is back."""
        self.cuts += 1
        self._may_connect.clear()
        self._news.set()

    def is_back(self) -> None:
        self._may_connect.set()

    async def until(self, wanted: Callable[["Watcher"], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not wanted(self):
                self._news.clear()
                await self._news.wait()

    @property
    def events(self) -> list[Frame]:
        """The stored events among the frames."""
        return [frame for frame in self.frames if frame.is_stored]

    @property
    def hellos(self) -> list[Frame]:
        """One a connection."""
        return [frame for frame in self.frames if frame.type == "hello"]

    @property
    def has_ended(self) -> bool:
        return bool(self.frames) and self.frames[-1].type == "stream_end"

    @property
    def last_id(self) -> str | None:
        return next((frame.id for frame in reversed(self.frames) if frame.id is not None), None)


class CurlWatcher(Watcher):
    """`curl -N`, started again with the last id it printed."""

    async def follow(self) -> None:
        while not self.has_ended:
            await self._may_connect.wait()
            await self._connect()
            if not self.has_ended:
                self.was_cut()

    async def _connect(self) -> None:
        resume = [] if self.last_id is None else ["--header", f"Last-Event-ID: {self.last_id}"]
        curl = await asyncio.create_subprocess_exec(
            "curl", "--silent", "--no-buffer", "--fail", *resume, self.url, stdout=asyncio.subprocess.PIPE
        )
        assert curl.stdout is not None
        decoder = SseDecoder()
        while chunk := await curl.stdout.read(65536):
            for message in decoder.decode(chunk):
                self.take(Frame.of_sse(message))
        await curl.wait()


class WebSocketWatcher(Watcher):
    """The websockets library, with `after=`."""

    async def follow(self) -> None:
        while not self.has_ended:
            await self._may_connect.wait()
            resume = "" if self.last_id is None else f"?after={self.last_id}"
            url = self.url.replace("http", "ws", 1) + resume
            async with connect(url, subprotocols=[Subprotocol("tailrace.v1")]) as socket:
                try:
                    while not self.has_ended:
                        for frame in json.loads(await socket.recv()):
                            self.take(Frame.of_json(frame))
                except ConnectionClosed:
                    self.was_cut()


class PageWatcher(Watcher):
    """A script in a page. `tell` is how it reaches us; it connects again by its own means."""

    SCRIPT = ""

    def __init__(self, url: str, page: Page) -> None:
        super().__init__(url)
        self.closed = asyncio.Event()
        self._page = page

    async def begin(self) -> None:
        """Let the page follow; what it tells comes by itself."""
        name = f"tell{id(self)}"
        await self._page.expose_function(name, self._told)
        await self._page.evaluate(self.SCRIPT, [urlsplit(self.url).path, name])

    async def follow(self) -> None:
        await self.begin()
        await self.until(lambda watcher: watcher.has_ended)

    def _told(self, kind: str, id: str, data: str) -> None:
        if kind == "frame":
            self.take(Frame(id, json.loads(data)))
        elif kind == "cut":
            self.was_cut()
        elif kind == "closed":
            self.closed.set()


class EventSourceWatcher(PageWatcher):
    """What a browser has built in."""

    SCRIPT = """([path, name]) => {
        const tell = window[name];
        const source = new EventSource(path);
        for (const type of ["hello", "live", "gap", "reset", "bookmark", "stream_end", "status", "node_update"]) {
            source.addEventListener(type, (message) => tell("frame", message.lastEventId, message.data));
        }
        source.onerror = () => tell(source.readyState === EventSource.CLOSED ? "closed" : "cut", "", "");
    }"""


class PageWebSocketWatcher(PageWatcher):
    """A browser's WebSocket, which has to be made anew after a cut."""

    SCRIPT = """([path, name]) => {
        const tell = window[name];
        let after = "start";
        const open = () => {
            const socket = new WebSocket(`ws://${location.host}${path}?after=${after}`, "tailrace.v1");
            socket.onmessage = (message) => {
                for (const frame of JSON.parse(message.data)) {
                    after = frame.id;
                    tell("frame", frame.id, JSON.stringify(frame.event));
                }
            };
            socket.onclose = (close) => {
                tell(close.code === 1000 ? "closed" : "cut", "", "");
                if (close.code !== 1000) setTimeout(open, 50);
            };
        };
        open();
    }"""
