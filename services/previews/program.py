"""One preview's program while this process has it: launched, watched, stopped, launched again."""

import asyncio
import logging
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from services.previews.events import Exit
from services.previews.filemap import FileLimits, FilesRefused, check_files
from services.previews.filewriter import apply_patch, write_files
from services.previews.health import Health
from services.previews.launch import Child, LaunchFailed, LaunchSpec, Limits
from services.previews.launch import Exit as Ended
from services.previews.launching import Launching
from services.previews.lifecycle import Lifecycle
from services.previews.model import Preview
from services.previews.writer import Writer
from shared.channel.reader import patiently
from shared.channel.tasks import end
from shared.edge.problems import Problem

log = logging.getLogger("tailrace.previews")

Wish = Literal["stop", "restart", "expired", "shutdown"]
WORDS: Mapping[Wish, str] = {
    "stop": "stopped",
    "restart": "restarted",
    "expired": "stopped: its time was over",
    "shutdown": "stopped: the service is shutting down",
}
LIMITS_TOLD = {
    "memory": "it used more memory than it may",
    "disk": "it filled more of the disk than it may",
    "processes": "it had more processes than it may",
    "lost": "what watched over it was killed",
}
CHECKS_MISSED = 2
GRACE_SECONDS = 5.0
SHUTDOWN_GRACE_SECONDS = 1.0


class Surroundings(Struct, frozen=True, kw_only=True):
    """What programs of this process share."""

    lifecycle: Lifecycle
    launching: Launching
    file_limits: FileLimits
    directory: Path
    sockets: Path
    limits: Limits
    check_seconds: float  # between two questions whether it is well: most programs log each request, and these too
    files: Callable[[str], Awaitable[Mapping[str, str]]]  # of a preview, by its id


class Program:
    """Runs until the preview has ended, over as many attempts as it is restarted."""

    _writer: Writer

    def __init__(self, preview: Preview, prepare: Callable[[], Awaitable[Writer]], surroundings: Surroundings) -> None:
        self.preview = preview
        self.health: Health | None = None
        self._prepare = prepare
        self._around = surroundings
        self._wish: asyncio.Future[Wish] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._child: Child | None = None  # while it runs
        self._last: Child | None = None

    # ── for the owner ──────────────────────────────────────────────────────────────────────────────────────────

    def start(self, on_end: Callable[[], object]) -> None:
        """Begin; `on_end` is called when the preview has ended and nothing of it is left here."""
        self._task = asyncio.create_task(self._run(), name=f"preview {self.preview.id}")
        self._task.add_done_callback(lambda _: on_end())

    def ask(self, wish: Wish) -> None:
        """Stop it, or stop it and launch it again. What was asked first counts, but for a stop, which always does."""
        if not self._wish.done():
            self._wish.set_result(wish)
        elif self._wish.result() == "restart" and wish != "restart":
            self._wish = asyncio.get_running_loop().create_future()
            self._wish.set_result(wish)

    async def ended(self) -> None:
        """Wait for the end."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def change_files(self, changes: Mapping[str, str | None]) -> None:
        """Write and remove files where it runs now. Raise FilesRefused when one cannot be; then none is."""
        child = self._child
        if child is not None:
            await asyncio.to_thread(apply_patch, self.home, changes, self._around.file_limits, child.uid)

    @property
    def home(self) -> Path:
        """Where its files are."""
        return self._around.directory / self.preview.label / "app"

    @property
    def socket(self) -> Path:
        """Where it answers."""
        return self._around.sockets / self.preview.label / "http.sock"

    # ── its life ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        writing: asyncio.Task[None] | None = None
        try:
            self._writer = await self._prepare()
            writing = asyncio.create_task(self._writer.run(), name="writer")
            while await self._attempt():
                if self._wishes("restart"):  # and not a stop by now
                    self._wish = asyncio.get_running_loop().create_future()
                self.preview = await self._told(lambda: self._around.lifecycle.again(self.preview))
        except Problem as problem:  # taken away meanwhile
            log.warning("a preview cannot go on", extra={"preview": self.preview.id, "error": str(problem)})
        except Exception as error:
            log.error("a preview failed in a way nobody foresaw", exc_info=error, extra={"preview": self.preview.id})
            with suppress(Problem):
                await self._move("failed", message="the service could not go on with it; its log has the reason")
        finally:
            await end(writing)
            if self._last is not None:
                await self._last.stop(0)  # what was kept for another attempt, and there is none
            for place in (self.home.parent, self.socket.parent):
                await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    async def _attempt(self) -> bool:
        """One attempt. True: another one is wanted."""
        preview = self.preview
        self._writer.begin(preview.attempt)
        try:
            child = await self._launch()
        except (LaunchFailed, FilesRefused, OSError) as error:
            self._writer.say(str(error), "ERROR")
            await self._writer.drain()
            await self._move("failed", message=str(error))
            return False
        self._child = self._last = child
        self.health = Health(self.socket, preview.recipe.health.path)
        try:
            ended, was_ready, why = await self._watch(child)
        finally:
            await self.health.close()
            self._child = self.health = None
            await child.stop(0, keep_directory=self._wishes("restart"))  # it has ended, or is to
        self._writer.close_pipes()
        return await self._finish(ended, was_ready=was_ready, why=why)

    async def _launch(self) -> Child:
        preview, recipe = self.preview, self.preview.recipe
        self._writer.say(f"attempt {preview.attempt}: {preview.kind}, isolation {preview.isolation}")
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.socket.parent.mkdir(exist_ok=True)
        self.socket.parent.chmod(0o711)  # the program's own user has to come through
        files = check_files(await patiently(lambda: self._around.files(preview.id)), self._around.file_limits)
        await asyncio.to_thread(write_files, self.home, files)
        spec = LaunchSpec(
            preview_id=preview.id,
            attempt=preview.attempt,
            kind=preview.kind,
            entry=recipe.entry,
            command=tuple(recipe.command),
            env=recipe.env,
            directory=self.home,
            socket=self.socket,
            limits=self._around.limits,
            network=recipe.network,
        )
        child = await self._around.launching.launch(spec, self._writer.feed)
        await self._move("starting")
        return child

    async def _watch(self, child: Child) -> tuple[Ended, bool, str | None]:
        """Until it has ended: how, whether it was ready before, and why it was made to."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        expiry = loop.call_later(self.preview.recipe.ttl_seconds, self.ask, "expired")
        exited, wish = asyncio.create_task(child.exited(), name="exit"), self._wish
        either: list[asyncio.Future[Any]] = [exited, wish]
        starting = asyncio.create_task(self._until_ready(began), name="readiness")
        checking: asyncio.Task[None] | None = None
        ready = False
        try:
            await asyncio.wait([*either, starting], return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and not exited.done() and not wish.done():
                ready = starting.result()
                if not ready:
                    seconds = self.preview.recipe.health.timeout_seconds
                    return await self._stop(child), False, f"it did not answer within {seconds:g} s"
                checking = asyncio.create_task(self._check_health(), name="health")
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                return exited.result(), ready, None
            await end(starting, checking)
            await self._move("stopping", message=WORDS[wish.result()])
            return await self._stop(child), ready, None
        finally:
            expiry.cancel()
            await end(starting, checking, exited)

    async def _until_ready(self, began: float) -> bool:
        assert self.health is not None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.preview.recipe.health.timeout_seconds):
                await self.health.until_well()
        except TimeoutError:
            return False
        after_ms = round((loop.time() - began) * 1000)
        self.preview = await self._told(lambda: self._around.lifecycle.ready(self.preview.id, after_ms))
        return True

    async def _check_health(self) -> None:
        """While it runs: unhealthy when it has not answered several times in a row."""
        assert self.health is not None
        missed = 0
        while True:
            await asyncio.sleep(self._around.check_seconds)
            missed = 0 if await self.health.is_well() else missed + 1
            if missed == CHECKS_MISSED and self.preview.status == "running":
                await self._move("unhealthy", message="it does not answer")
            elif missed == 0 and self.preview.status == "unhealthy":
                await self._move("running", message=None)

    async def _stop(self, child: Child) -> Ended:
        grace = SHUTDOWN_GRACE_SECONDS if self._wishes("shutdown") else GRACE_SECONDS
        return await child.stop(grace, keep_directory=True)  # whether there is another attempt is seen afterwards

    def _wishes(self, wish: Wish) -> bool:
        return self._wish.done() and self._wish.result() == wish

    async def _finish(self, ended: Ended, *, was_ready: bool, why: str | None) -> bool:
        """Tell how it ended. True: it is to be launched again.

        A wish can come, or another take its place, at each `await`.
        """
        how = Exit(code=ended.code, signal=_signal(ended))
        wish = self._wish.result() if self._wish.done() else None
        why = why or LIMITS_TOLD.get(ended.reason)
        told: dict[str, Any] = {"exit": how}
        if wish is not None and why is None:
            status = "stopped"
            told["message"] = WORDS[wish]
        else:
            status = "exited" if was_ready and why is None else "failed"
            told["message"] = why or ("it ended" if was_ready else "it ended before it answered")
        self._writer.say(f"attempt {self.preview.attempt} {status}: {told['message']}, {_words(ended)}", _level(status))
        await self._writer.drain(in_haste=self._wishes("shutdown"))
        if status == "failed" or (status == "exited" and ended.code != 0):
            told["tail"] = tuple(self._writer.tail)
        if self._wish.done() and (status == "stopped" or self._wishes("restart")) and self.preview.status != "stopping":
            await self._move("stopping", message=WORDS[self._wish.result()])  # asked when it was ending already
        if self._wishes("restart"):
            return True
        if wish == "restart" and status == "stopped":
            told["message"] = WORDS[self._wish.result()]
        await self._move(status, **told)
        return False

    async def _move(self, status: Any, **told: Any) -> None:
        self.preview = await self._told(lambda: self._around.lifecycle.move(self.preview.id, status, **told))

    async def _told(self, tell: Callable[[], Awaitable[Preview]]) -> Preview:
        """However long the database is away: the program runs on meanwhile."""
        return await patiently(tell)


def _signal(ended: Ended) -> str | None:
    return None if ended.signal is None else signal.Signals(ended.signal).name


def _words(ended: Ended) -> str:
    if ended.signal is not None:
        return f"signal {_signal(ended)}"
    return "exit code not known" if ended.code is None else f"exit code {ended.code}"


def _level(status: str) -> str:
    return "INFO" if status == "stopped" else "ERROR"
