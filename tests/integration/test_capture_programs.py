"""Real programs, their output through real pipes: everything arrives or is counted."""

import asyncio
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from services.previews.capture import CaptureBuffer, Captured, CaptureLimits
from services.previews.levels import LevelReader
from services.previews.lines import PART_BYTES, Piece
from services.previews.pipe import FLUSH_SECONDS, READ_BYTES, Pipe

WIDE = CaptureLimits(buffer_bytes=128 * 1024 * 1024, lines_per_second=10**9, burst_lines=10**9)


async def read(reader: asyncio.StreamReader, pipe: Pipe, flushes: asyncio.Event) -> None:
    """As the service does it: what has been read goes in, and a line that waits is shown."""
    flushed = True
    while True:
        try:
            async with asyncio.timeout(None if flushed else FLUSH_SECONDS):
                data = await reader.read(READ_BYTES)
        except TimeoutError:
            pipe.flush(datetime.now(UTC))
            flushed = True
            flushes.set()
            continue
        if not data:
            pipe.close(datetime.now(UTC))
            return
        pipe.feed(data, datetime.now(UTC))
        flushed = False


class Running:
    """A program with its pipes read into a buffer. `flushed` is set when a line that waits was shown."""

    def __init__(self, process: asyncio.subprocess.Process, buffer: CaptureBuffer) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdin = process.stdin
        self.flushed = asyncio.Event()
        self.reading = asyncio.gather(
            read(process.stdout, Pipe("stdout", buffer), self.flushed),
            read(process.stderr, Pipe("stderr", buffer), self.flushed),
        )
        self._process = process

    async def end(self) -> None:
        """Close its input and await its end."""
        self.stdin.close()
        async with asyncio.timeout(60):
            await self.reading
            await self._process.wait()


async def start(buffer: CaptureBuffer, *command: str) -> Running:
    pipe = subprocess.PIPE
    return Running(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe), buffer)


async def captured_of(*command: str, limits: CaptureLimits = WIDE) -> list[Captured]:
    """What a program printed, taken when it has ended."""
    buffer = CaptureBuffer(limits)
    await (await start(buffer, *command)).end()
    return buffer.take(10**9, 10**12, datetime.now(UTC))


async def printed_by(code: str, limits: CaptureLimits = WIDE) -> list[Captured]:
    return await captured_of(sys.executable, "-c", "import os, sys, time\n" + code, limits=limits)


def messages(captured: Iterable[Captured]) -> list[str]:
    return [entry.message for entry in captured if not entry.partial]


async def test_a_traceback_is_an_error_from_its_first_line_to_its_last() -> None:
    captured = await printed_by(
        """
try:
    {}["x"]
except KeyError as error:
    print("before", file=sys.stderr)
    raise RuntimeError("it broke") from error
"""
    )
    assert messages(captured)[-1] == "RuntimeError: it broke"
    assert [entry.level for entry in captured] == ["INFO"] + ["ERROR"] * (len(captured) - 1)
    assert {entry.stream for entry in captured} == {"stderr"}


async def test_an_exception_group_and_logging_have_their_levels() -> None:
    captured = await printed_by(
        """
import logging, warnings
logging.basicConfig(level="DEBUG", format="%(asctime)s %(name)s %(levelname)s %(message)s")
logging.debug("a"); logging.info("b"); logging.warning("c"); logging.critical("d")
warnings.warn("e", stacklevel=1)
try:
    raise ExceptionGroup("g", [ValueError(1), TypeError(2)])
except ExceptionGroup:
    logging.exception("f")
logging.info("on it goes")
"""
    )
    found = [entry.level for entry in captured]
    assert found[:5] == ["DEBUG", "INFO", "WARN", "ERROR", "WARN"]
    assert messages(captured)[5].endswith("ERROR f")
    assert found[5:] == ["ERROR"] * (len(found) - 6) + ["INFO"]


async def test_a_node_stack_is_an_error() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    code = "console.log('up'); const e = new Error('it broke'); e.code = 'EX'; throw e"
    captured = await captured_of(node, "-e", code)
    lines = [entry for entry in captured if entry.message]
    first = next(index for index, entry in enumerate(lines) if entry.message == "Error: it broke")
    stack = [entry for entry in lines[first:] if not entry.message.startswith("Node.js")]
    assert lines[0].message == "up"
    assert len(stack) > 4
    assert {entry.level for entry in stack} == {"ERROR"}


async def test_a_progress_bar_is_one_line() -> None:
    captured = await printed_by(
        r"""
for percent in range(0, 101, 10):
    print(f"\r{percent:3}%|{'#' * (percent // 10):10}|", end="", file=sys.stderr, flush=True)
    time.sleep(0.001)
print(file=sys.stderr)
"""
    )
    assert messages(captured) == ["100%|##########|"]
    assert {entry.line for entry in captured} == {1}


async def test_a_line_without_an_end_is_shown_while_the_program_waits() -> None:
    buffer = CaptureBuffer(WIDE)
    program = await start(buffer, sys.executable, "-c", "print('hello', input('Name? '))")
    async with asyncio.timeout(30):
        await program.flushed.wait()
    shown = buffer.take(10, 10**6, datetime.now(UTC))
    program.stdin.write(b"Anna\n")
    await program.end()
    assert [(entry.line, entry.message, entry.partial) for entry in shown] == [(1, "Name? ", True)]
    after = buffer.take(10, 10**6, datetime.now(UTC))
    assert [(entry.line, entry.message, entry.partial) for entry in after] == [(1, "Name? hello Anna", False)]


async def test_a_line_of_five_megabytes_comes_in_parts() -> None:
    captured = await printed_by("sys.stdout.write('é' * 2_500_000 + '\\nafter\\n')")
    *parts, after = captured
    assert "".join(part.message for part in parts) == "é" * 2_500_000
    assert [part.part for part in parts] == list(range(len(parts)))
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert {part.line for part in parts} == {1}
    assert max(len(part.message.encode()) for part in parts) <= PART_BYTES
    assert (after.line, after.message) == (2, "after")


async def test_bytes_that_are_no_text_and_characters_cut_across_reads() -> None:
    captured = await printed_by(
        r"""
for chunk in (b"\xff\xfe ", "é😀".encode()[:3], "é😀".encode()[3:], b"\0|\0\n", b"cut \xf0\x9f", b"\x98"):
    os.write(1, chunk)
    time.sleep(0.02)
"""
    )
    assert messages(captured) == ["\ufffd\ufffd é😀|", "cut \ufffd"]


async def test_titles_and_the_clipboard_are_dropped_and_colours_are_not() -> None:
    captured = await printed_by(
        r"""
os.write(1, b"\x1b]0;tit")
time.sleep(0.02)
os.write(1, b"le\x07\x1b]52;c;cm0gLXJmIC8=\x1b\\\x1b[2J\x1b[1;31mred\x1b[0m\x1b[K\x1b")
time.sleep(0.02)
os.write(1, b"(B\x1b[?25hplain\n")
"""
    )
    assert messages(captured) == ["\x1b[1;31mred\x1b[0mplain"]


async def test_ls_in_colour() -> None:
    captured = await captured_of("ls", "--color=always", "-d", "/", "/bin/sh")
    assert len(captured) == 2
    assert all("\x1b[0m" in message and "\x1b[K" not in message for message in messages(captured))


async def test_a_program_that_believes_it_has_a_terminal() -> None:
    script = shutil.which("script")
    if script is None:
        pytest.skip("script is not installed")
    program = "printf '\\033[?2004h\\033]0;t\\007$ \\033[32mok\\033[0m\\r\\nnext\\r\\n\\033[?2004l'"
    captured = await captured_of(script, "-q", "-c", program, "/dev/null")
    assert messages(captured) == ["$ \x1b[32mok\x1b[0m", "next"]


LINES = 200_000
FAST = f"sys.stdout.write(''.join('%09d\\n' % n for n in range({LINES})))"


async def test_two_hundred_thousand_lines_arrive_each() -> None:
    captured = await printed_by(FAST)
    assert [int(message) for message in messages(captured)] == list(range(LINES))
    assert [entry.line for entry in captured] == list(range(1, LINES + 1))


async def test_what_a_slow_writer_loses_is_counted_exactly() -> None:
    """200,000 lines as fast as they come, against a writer that stores 100 every 5 ms into a small buffer."""
    buffer = CaptureBuffer(CaptureLimits(buffer_bytes=256 * 1024))
    program = await start(buffer, sys.executable, "-c", f"import sys\n{FAST}")
    stored: list[Captured] = []
    while not program.reading.done():
        stored += buffer.take(100, 10**6, datetime.now(UTC))
        await asyncio.sleep(0.005)  # the slow writer
    await program.end()
    while batch := buffer.take(100, 10**6, datetime.now(UTC)):
        stored += batch

    following = 0
    stored = [entry for entry in stored if not entry.partial]  # a busy machine may have stalled the program
    for entry in stored:
        if entry.dropped is None:
            assert int(entry.message) == following
            following += 1
        else:
            following += entry.dropped
    assert following == LINES
    assert buffer.dropped_total > 0
    assert int(stored[-1].message) == LINES - 1
    assert [entry.line for entry in stored] == list(range(1, len(stored) + 1))


async def test_both_streams_at_once_are_numbered_without_a_hole() -> None:
    captured = await printed_by("for n in range(20_000): print(n, file=(sys.stdout, sys.stderr)[n % 2], flush=True)")
    assert [entry.line for entry in captured] == list(range(1, 20_001))
    assert Counter(entry.stream for entry in captured) == {"stdout": 10_000, "stderr": 10_000}


UGLY = ["err ", "a: ", "[err ", "Aa.", "\x1b[0m", 'level="', "\\", " ", "at ", "Error", "E0000 ", ":1: ", "<", "( [as "]


@pytest.mark.parametrize("piece", [*UGLY, *(a + b for a in UGLY for b in UGLY if a != b)])
def test_no_line_takes_the_levels_long(piece: str) -> None:
    reader = LevelReader()
    began = time.process_time()
    for prefix in ("", " ", "{", "Traceback (most recent call last):", "Uncaught ", "   | ", '  File "'):
        reader.read(Piece(prefix + piece * 1000))
    assert time.process_time() - began < 0.1
