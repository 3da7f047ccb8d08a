"""What capture costs: lines cut, levelled, buffered, and encoded as events. `python -m tests.bench.capture`"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from services.previews.capture import CaptureBuffer, Captured, CaptureLimits
from services.previews.events import SCHEMA, Log
from services.previews.levels import LevelReader
from services.previews.lines import LineSplitter
from services.previews.pipe import Pipe

LINES = 300_000
READ_BYTES = 64 * 1024
NOW = datetime(2026, 7, 1, tzinfo=UTC)
LIMITS = CaptureLimits(buffer_bytes=2**30, lines_per_second=10**9, burst_lines=10**9)

KINDS = {
    "plain, 60 bytes": b"request 17 took 12 ms and nothing of note has happened here\n",
    "not ASCII": "Anfrage 17: 12 ms, größer als sonst, aber noch nicht schlimm ✓\n".encode(),
    "with a level": b"2026-07-01 10:00:00,123 INFO app.web request 17 took 12 ms\n",
    "coloured": b"\x1b[32mINFO\x1b[0m request \x1b[1m17\x1b[0m took 12 ms, nothing of note\n",
    "CRLF": b"request 17 took 12 ms and nothing of note has happened here\r\n",
}


def cut(data: bytes) -> None:
    """The splitter alone."""
    splitter = LineSplitter()
    for start in range(0, len(data), READ_BYTES):
        splitter.feed(data[start : start + READ_BYTES])


def cut_and_level(data: bytes) -> None:
    """The splitter and the levels."""
    splitter, levels = LineSplitter(), LevelReader()
    for start in range(0, len(data), READ_BYTES):
        for piece in splitter.feed(data[start : start + READ_BYTES]):
            levels.read(piece)


def capture(data: bytes) -> None:
    """All of it, as the service does: pipe, buffer, batches of events."""
    buffer = CaptureBuffer(LIMITS)
    pipe = Pipe("stdout", buffer)
    for start in range(0, len(data), READ_BYTES):
        pipe.feed(data[start : start + READ_BYTES], NOW)
        while batch := buffer.take(500, 2**20, NOW):
            for captured in batch:
                SCHEMA.encode(event(captured))


def event(captured: Captured) -> Log:
    """As the service publishes it."""
    return Log(
        tenant="default",
        ts=NOW,
        preview_id="prv_01j00000000000000000000000",
        generation_id="gen_1",
        line=captured.line,
        timestamp=captured.timestamp,
        level=captured.level,
        message=captured.message,
        source=captured.source,
        stream=captured.stream,
        part=captured.part,
        last=captured.last,
        partial=captured.partial,
        dropped=captured.dropped,
        attempt=1,
    )


def rate(work: Callable[[bytes], None], data: bytes) -> float:
    """Lines per second of CPU time, the best of three."""
    times = []
    for _ in range(3):
        began = time.process_time()
        work(data)
        times.append(time.process_time() - began)
    return LINES / min(times)


def main() -> None:
    """Print lines per second of one core's time."""
    print(f"{'lines/s of one core':20}{'cut':>12}{'and levels':>12}{'as events':>12}")
    for name, line in KINDS.items():
        data = line * LINES
        print(f"{name:20}" + "".join(f"{rate(work, data):12,.0f}" for work in (cut, cut_and_level, capture)))


if __name__ == "__main__":
    main()
