"""A contender's process: start it, learn its port, read its CPU time and memory from outside, stop it."""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.bench.contenders import Contender

_ROOT: Final = Path(__file__).parents[2]
_PORT: Final = re.compile(r"http://127\.0\.0\.1:(\d+)")
_PID: Final = re.compile(r"^pid (\d+)$", re.MULTILINE)  # of a child that does the work
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0


class ServerProcess:
    """A running contender, set up. Only the process itself is measured; a database that it starts is not."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  (`stop` closes it)
        self.process = subprocess.Popen(
            contender.argv, cwd=_ROOT, env=os.environ | dict(contender.env), stdout=self.log, stderr=self.log
        )
        try:
            self.port = self._await_port()
            worker = _PID.search(self.output())
            self.pid = self.process.pid if worker is None else int(worker[1])
            if contender.set_up is not None:
                self.contender = contender.set_up(contender, self.port)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def output(self) -> str:
        """What the process has printed so far, stdout and stderr, the first 100 kB of it."""
        return os.pread(self.log.fileno(), 100_000, 0).decode(errors="replace")

    def _await_port(self) -> int:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if match := _PORT.search(self.output()):
                return int(match[1])
            time.sleep(0.02)
        raise RuntimeError(f"{self.contender.name} did not print http://127.0.0.1:PORT but:\n{self.output()}")

    def cpu_seconds(self) -> float:
        """User and system time so far, of all threads; not rounded to ticks (see clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def await_quiet(self, seconds: float) -> None:
        """Return when the process has used less than a tenth of the last `seconds`."""
        used, now = -seconds, self.cpu_seconds()
        while now - used >= seconds / 10:
            time.sleep(seconds)
            used, now = now, self.cpu_seconds()

    def resident_bytes(self) -> int:
        """Resident memory; what the kernel keeps per socket is not in it."""
        statm = Path(f"/proc/{self.pid}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """Ask the process to end, then insist."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
