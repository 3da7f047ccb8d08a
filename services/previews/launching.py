"""Launching as this machine allows it: which isolation there is, and whether it is enough."""

import asyncio
import logging
from pathlib import Path

from services.previews.events import Isolation
from services.previews.launch import (
    Child,
    IsolationUnavailable,
    Launcher,
    LaunchFailed,
    LaunchSpec,
    OnOutput,
    Tier,
    detect,
    protect_this_process,
    sweep,
)
from services.previews.launch.records import Records
from services.previews.supervisor.files import remove
from shared.edge.problems import Unprocessable

log = logging.getLogger("tailrace.previews")


class Launching:
    """`start` tries what there is. Where it is not enough the service goes on, and launches nothing."""

    def __init__(self, directory: Path, sockets: Path, *, minimum: str, trusts_everybody: bool) -> None:
        self._directory = directory
        self._sockets = sockets
        self._minimum = minimum
        self._trusts_everybody = trusts_everybody
        self._launcher: Launcher | None = None
        self._tier: Tier | None = None
        self._fault = "it has not been tried yet"

    async def start(self) -> None:
        """End what an earlier process of this data directory has left, and find out how programs can be isolated."""
        protect_this_process()
        await sweep(self._directory)
        await asyncio.to_thread(self._remove_left)
        try:
            tier = await detect(self._minimum or None, self._directory, self._sockets)
        except IsolationUnavailable as error:
            self._fault = str(error)
            log.error("no preview can be launched here", extra={"why": self._fault})
            return
        if tier.name == "process" and self._minimum != "process":
            why = " ".join(tier.passed_over)
            if not self._trusts_everybody:
                self._fault = (
                    f"Programs cannot be kept apart from the service here, and others than its user may launch some. "
                    f"{why} TAILRACE_PREVIEW_ISOLATION=process allows it all the same."
                )
                log.error("no preview can be launched here", extra={"why": self._fault})
                return
            log.warning("previews run as the service's own user: launch only what you trust", extra={"why": why})
        self._tier, self._launcher = tier, Launcher(tier.name, self._directory)

    def _remove_left(self) -> None:
        """Directories of previews of which no launch is on record: the end of their service came before theirs."""
        known = {Path(record.directory).parent.name for record in Records(self._directory).all()}
        for left in (*self._directory.glob("prv-*"), *self._sockets.glob("prv-*")):
            if left.name not in known:
                try:
                    remove(str(left))
                except OSError as error:
                    log.error(
                        "what a preview has left cannot be removed", extra={"path": str(left), "error": str(error)}
                    )

    async def close(self) -> None:
        if self._launcher is not None:
            await self._launcher.close(0)

    @property
    def isolation(self) -> Isolation:
        """The name of the tier in force. Raise Unprocessable when there is none that is enough."""
        if self._tier is None:
            raise Unprocessable(f"No preview can be launched here. {self._fault}")
        return self._tier.name

    @property
    def state(self) -> str:
        """For `/ready`."""
        if self._tier is None:
            return self._fault
        exposed = ", ".join(self._tier.does_not)
        return f"ok: {self._tier.name}" + (f"; within a program's reach: {exposed}" if exposed else "")

    async def launch(self, spec: LaunchSpec, on_output: OnOutput) -> Child:
        """Raise LaunchFailed."""
        if self._launcher is None:
            raise LaunchFailed(self._fault)
        return await self._launcher.launch(spec, on_output)
