"""CaptureBuffer: bounded, in order, numbered without a hole, and what it drops is counted where it was."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.previews.capture import (
    OVERHEAD_BYTES,
    SLOW_BUFFER_BYTES,
    CaptureBuffer,
    Captured,
    CaptureLimits,
    Stream,
)
from services.previews.lines import MIN_PART_BYTES, PART_BYTES, LineSplitter, Piece
from services.previews.pipe import Pipe

NOW = datetime(2026, 7, 1, 10, tzinfo=UTC)
SMALL = CaptureLimits(buffer_bytes=4 * PART_BYTES)
HOLDS = 4 * PART_BYTES // (OVERHEAD_BYTES + 10)  # lines of ten characters
STREAMS: tuple[Stream, ...] = ("stdout", "stderr")


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def put(buffer: CaptureBuffer, *texts: str, stream: Stream = "stdout") -> None:
    for text in texts:
        buffer.put(stream, Piece(text), "INFO", NOW)


def take(buffer: CaptureBuffer, most: int = 10**6, now: datetime = NOW) -> list[Captured]:
    return buffer.take(most, 10**9, now)


def numbered(buffer: CaptureBuffer) -> list[tuple[int, str]]:
    return [(captured.line, captured.message) for captured in take(buffer)]


def test_lines_are_taken_in_the_order_of_capture_and_numbered_over_both_streams() -> None:
    buffer = CaptureBuffer(CaptureLimits())
    buffer.put("stdout", Piece("one"), "INFO", at(0))
    buffer.put("stderr", Piece("two"), "ERROR", at(1))
    buffer.put_system("three", "WARN", at(2))
    assert take(buffer) == [
        Captured(1, at(0), "INFO", "one", "stdout"),
        Captured(2, at(1), "ERROR", "two", "stderr"),
        Captured(3, at(2), "WARN", "three", None),
    ]
    assert [captured.source for captured in take(buffer)] == []
    assert (len(buffer), buffer.size_bytes, buffer.next_line) == (0, 0, 4)


def test_numbers_go_on_where_an_earlier_buffer_ended() -> None:
    buffer = CaptureBuffer(CaptureLimits(), next_line=17)
    put(buffer, "x")
    assert numbered(buffer) == [(17, "x")]


def test_a_batch_keeps_to_both_bounds_and_has_at_least_one() -> None:
    buffer = CaptureBuffer(CaptureLimits())
    put(buffer, *"abcde")
    assert [c.message for c in buffer.take(2, 10**9, NOW)] == ["a", "b"]
    assert [c.message for c in buffer.take(9, 2 * (OVERHEAD_BYTES + 1), NOW)] == ["c", "d"]
    assert [c.message for c in buffer.take(9, 1, NOW)] == ["e"]


def test_the_oldest_go_and_one_line_says_how_many() -> None:
    buffer = CaptureBuffer(SMALL)
    put(buffer, *(f"{number:010}" for number in range(HOLDS + 5)))
    taken = take(buffer)
    assert (taken[0].line, taken[0].message, taken[0].dropped) == (1, "lines dropped: 5", 5)
    assert (taken[0].source, taken[0].stream, taken[0].level) == ("system", None, "WARN")
    assert [(c.line, c.message) for c in taken[1:]] == [(n - 3, f"{n:010}") for n in range(5, HOLDS + 5)]
    assert buffer.dropped_total == 5


def test_drops_that_were_told_are_not_told_again() -> None:
    buffer = CaptureBuffer(SMALL)
    put(buffer, *(["x" * 10] * (HOLDS + 5)))
    assert [c.dropped for c in take(buffer, 3)] == [5, None, None]
    put(buffer, *(["y" * 10] * 5))
    assert take(buffer, 1)[0].dropped == 3  # two had been taken
    assert all(c.dropped is None for c in take(buffer))


def test_a_line_larger_than_what_is_free_pushes_out_what_it_needs() -> None:
    buffer = CaptureBuffer(SMALL)
    put(buffer, *(["é" * 5] * HOLDS))
    put(buffer, "é" * (PART_BYTES // 2))
    assert buffer.size_bytes <= SMALL.buffer_bytes
    assert take(buffer)[-1].message == "é" * (PART_BYTES // 2)


def test_a_partial_line_is_replaced_while_it_waits() -> None:
    buffer = CaptureBuffer(CaptureLimits())
    buffer.put("stdout", Piece("Nam", 0, False, True), "INFO", at(0))
    put(buffer, "other", stream="stderr")
    buffer.put("stdout", Piece("Name?", 0, False, True), "INFO", at(1))
    buffer.put("stdout", Piece("Name? Anna"), "INFO", at(2))
    put(buffer, "next")
    assert numbered(buffer) == [(1, "Name? Anna"), (2, "other"), (3, "next")]
    assert buffer.size_bytes == 0


def test_a_partial_line_that_was_taken_keeps_its_number() -> None:
    buffer = CaptureBuffer(CaptureLimits())
    buffer.put("stdout", Piece("Nam", 0, False, True), "INFO", NOW)
    assert numbered(buffer) == [(1, "Nam")]
    put(buffer, "other", stream="stderr")
    buffer.put("stdout", Piece("Name?", 0, False, True), "INFO", NOW)
    assert numbered(buffer) == [(2, "other"), (1, "Name?")]
    put(buffer, "Name? Anna", "next")
    assert numbered(buffer) == [(1, "Name? Anna"), (3, "next")]


def test_parts_of_a_line_have_one_number() -> None:
    buffer = CaptureBuffer(CaptureLimits())
    buffer.put("stdout", Piece("a", 0, False), "INFO", NOW)
    put(buffer, "other", stream="stderr")
    buffer.put("stdout", Piece("b", 1), "INFO", NOW)
    assert [(c.line, c.part, c.last) for c in take(buffer)] == [(1, 0, False), (2, 0, True), (1, 1, True)]


def test_the_line_after_one_whose_end_was_dropped_has_its_own_number() -> None:
    buffer = CaptureBuffer(SMALL)
    buffer.put("stdout", Piece("half", 0, False, True), "INFO", NOW)
    assert numbered(buffer) == [(1, "half")]
    put(buffer, "half a line")
    put(buffer, *(["x" * 10] * HOLDS))
    assert [(c.line, c.dropped) for c in take(buffer)][:2] == [(2, 1), (3, None)]


def test_a_partial_line_that_goes_is_not_counted_because_its_end_comes() -> None:
    buffer = CaptureBuffer(SMALL)
    buffer.put("stderr", Piece("half", 0, False, True), "INFO", NOW)
    put(buffer, *(["x" * 10] * HOLDS))
    assert buffer.dropped_total == 0
    put(buffer, "half a line", stream="stderr")
    assert [c.dropped for c in take(buffer)].count(1) == 1  # an x made room for it
    assert buffer.dropped_total == 1


def test_the_rate_holds_back_and_the_newest_stay() -> None:
    buffer = CaptureBuffer(CaptureLimits(buffer_bytes=4 * PART_BYTES, lines_per_second=10, burst_lines=20))
    put(buffer, *(f"{number:010}" for number in range(1000)))
    first = take(buffer, now=at(0))
    assert (len(first), first[0].dropped) == (20, 1000 - HOLDS)
    assert (take(buffer, now=at(0)), buffer.seconds_to_take(at(0))) == ([], 0.1)
    assert len(take(buffer, now=at(0.5))) == 5
    assert buffer.seconds_to_take(at(0.75)) == 0
    rest = take(buffer, now=at(3600))
    assert (len(rest), rest[-1].message) == (20, f"{1000 - HOLDS + 19 + 5 + 19:010}")


def test_a_clock_set_back_gives_and_takes_nothing() -> None:
    buffer = CaptureBuffer(CaptureLimits(lines_per_second=1, burst_lines=2))
    put(buffer, *"abcde")
    assert len(take(buffer, now=at(100))) == 2
    assert take(buffer, now=at(0)) == []
    assert len(take(buffer, now=at(1))) == 1


def test_slowed_down_it_says_so_first_holds_little_and_gives_what_is_new() -> None:
    buffer = CaptureBuffer(CaptureLimits())
    put(buffer, *(f"{number:010}" for number in range(10_000)))
    buffer.slow_down(10, "slowly now", NOW)
    held = SLOW_BUFFER_BYTES // (OVERHEAD_BYTES + 10)
    assert len(buffer) == held + 2  # what is said, and the line for what was dropped
    put(buffer, *(f"{number:010}" for number in range(10_000, 30_000)))  # and still it comes first
    taken = take(buffer)
    assert [captured.message for captured in taken[:3]] == [
        "slowly now",
        f"lines dropped: {30_000 - held}",
        f"{30_000 - held:010}",
    ]
    assert (taken[0].level, taken[0].source, len(taken)) == ("WARN", "system", 10)
    assert take(buffer) == []
    assert len(take(buffer, now=at(1))) == 10
    buffer.unbound()
    assert [captured.message for captured in take(buffer, now=at(1))][-1] == "0000029999"
    assert len(buffer) == 0


def test_only_the_newest_are_kept_when_so_asked() -> None:
    buffer = CaptureBuffer(CaptureLimits())
    put(buffer, *"abcdef")
    buffer.keep_newest(2 * (OVERHEAD_BYTES + 1), NOW)
    assert [captured.message for captured in take(buffer)] == ["lines dropped: 4", "e", "f"]
    buffer.keep_newest(0, NOW)
    assert take(buffer) == []


def test_nothing_waits_means_nothing_to_wait_for() -> None:
    buffer = CaptureBuffer(CaptureLimits())
    assert buffer.seconds_to_take(NOW) is None
    put(buffer, "x")
    assert buffer.seconds_to_take(NOW) == 0


@pytest.mark.parametrize("wrong", [{"buffer_bytes": 1000}, {"lines_per_second": 0}, {"burst_lines": 0}])
def test_limits_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        CaptureLimits(**wrong)


Action = tuple[Literal["put", "system", "take"], int, int]
actions = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "system", "take"]), st.integers(0, 1), st.integers(0, 60)),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(actions)
def test_every_line_is_taken_or_counted_where_it_was(todo: list[Action]) -> None:
    """Follow what is taken: the next line is the one expected, and N later after `lines dropped: N`."""
    buffer = CaptureBuffer(SMALL)
    count, following, line, told = 0, 0, 0, 0
    for action, which, much in [*todo, ("take", 0, 60), ("take", 0, 10**6)]:
        if action == "put":
            for _ in range(much):
                put(buffer, str(count).ljust(50), stream=STREAMS[which])
                count += 1
        elif action == "system":
            buffer.put_system(str(count), "INFO", NOW)
            count += 1
        else:
            for captured in take(buffer, much):
                line += 1
                assert captured.line == line
                if captured.dropped is None:
                    assert int(captured.message) == following
                    following += 1
                else:
                    assert captured.message == f"lines dropped: {captured.dropped}"
                    following += captured.dropped
                    told += captured.dropped
        assert buffer.size_bytes <= SMALL.buffer_bytes
    assert following == count
    assert told == buffer.dropped_total


def shown(batches: list[list[Captured]]) -> dict[int, tuple[str, bool]]:
    """What a viewer shows of each line who does as lines.py says, and whether it is complete."""
    lines: dict[int, list[str]] = {}
    complete: dict[int, bool] = {}
    for captured in [captured for batch in batches for captured in batch]:
        parts = lines.setdefault(captured.line, [])
        assert not complete.get(captured.line), "a complete line was changed"
        assert captured.part <= len(parts)
        parts[captured.part :] = [captured.message]
        complete[captured.line] = captured.last
    return {line: ("".join(parts), complete[line]) for line, parts in lines.items()}


printed = st.lists(
    st.tuples(
        st.sampled_from(STREAMS),
        st.sampled_from([b"a", b"word", b"\n", b"\r\n", b"\r", "é".encode(), b"x" * 200, b"\x1b[1m", b"\xe2\x82"]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(printed)
def test_a_viewer_shows_every_line_once_whenever_batches_and_flushes_come(
    chunks: list[tuple[Stream, bytes, bool, bool]],
) -> None:
    buffer = CaptureBuffer(CaptureLimits())
    pipes = {stream: Pipe(stream, buffer, MIN_PART_BYTES) for stream in STREAMS}
    whole: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
    batches = []
    for stream, data, flushes, takes in chunks:
        whole[stream] += data
        pipes[stream].feed(data, NOW)
        if flushes:
            pipes[stream].flush(NOW)
        if takes:
            batches.append(take(buffer))
    for pipe in pipes.values():
        pipe.close(NOW)
    batches.append(take(buffer))

    view = shown(batches)
    assert sorted(view) == list(range(1, len(view) + 1))
    streams = {captured.line: captured.stream for batch in batches for captured in batch}
    for stream in STREAMS:
        own = [view[line] for line in sorted(view) if streams[line] == stream]
        assert own == [(text, True) for text in joined(whole[stream])]


def joined(data: bytes) -> list[str]:
    splitter = LineSplitter(MIN_PART_BYTES)
    lines = [""]
    for piece in [*splitter.feed(data), *splitter.close()]:
        lines[-1] += piece.text
        if piece.last:
            lines.append("")
    return lines[:-1]


def test_a_pipe_gives_its_lines_their_levels() -> None:
    buffer = CaptureBuffer(CaptureLimits())
    pipe = Pipe("stderr", buffer)
    pipe.feed(b"Traceback (most recent call last):\n  File", at(0))
    pipe.flush(at(1))
    pipe.feed(b' "x", line 7, in f\nKeyError\nok\x1b]', at(2))
    pipe.close(at(3))
    assert [(c.level, c.message, c.timestamp) for c in take(buffer)] == [
        ("ERROR", "Traceback (most recent call last):", at(0)),
        ("ERROR", '  File "x", line 7, in f', at(2)),
        ("ERROR", "KeyError", at(2)),
        ("INFO", "ok", at(3)),
    ]
    assert pipe.unterminated == 1
