import itertools
import re

import httpx
import httpx_sse
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.protocol.sse import HEARTBEAT, SseDecoder, SseMessage, frame, opening

# Enough of each special thing, in any order.
PIECES = st.sampled_from(
    [
        *["data", "data:", "data: ", "data:  two", "data: {}", "data: ", "\ufeff", "\ufeffdata: x", "DATA: no"],
        *["id", "id:", "id: 7", "id: e-42", "id: a\0b", "event", "event:", "event: gap", "event: a:b", "retry"],
        *[
            "retry: 10",
            "retry: -1",
            "retry: 1x",
            "retry: \u0661",
            "retry:",
            ":",
            ": note",
            ":data: x",
            "other: 1",
            "é😀",
            "\0",
        ],
    ]
)
ENDS = st.sampled_from(["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "\n\r", ""])
STREAMS = st.lists(st.tuples(PIECES, ENDS), max_size=15).map(
    lambda lines: "".join(line + end for line, end in lines).encode()
)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


def decode(*chunks: bytes) -> list[SseMessage]:
    decoder = SseDecoder()
    return [message for chunk in chunks for message in decoder.decode(chunk)]


def by_the_standard(data: bytes) -> list[tuple[str, str, str, int | None]]:
    """Section 9.2.6 of the HTML standard, word for word, on the whole stream at once."""
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _unfinished = re.split("\r\n|\n|\r", text)
    data_buffer, event_buffer, id_buffer, retry = "", "", "", None
    dispatched: list[tuple[str, str, str, int | None]] = []
    for line in lines:
        if line == "":
            if data_buffer != "":
                dispatched.append((event_buffer or "message", data_buffer[:-1], id_buffer, retry))
            data_buffer = event_buffer = ""
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "event":
            event_buffer = value
        elif field == "data":
            data_buffer += value + "\n"
        elif field == "id" and "\0" not in value:
            id_buffer = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value)
    return dispatched


@given(STREAMS, CUTS)
@example(b"\xef\xbb\xbfdata: x\r\n\r\n", [1, 2])
@example(b"data: x\r\rdata: y\r\n\n", [7, 8, 17])
@example(b"data: x\r\ndata: y\r\n\r\n", [8])
def test_chunks_may_be_cut_at_any_byte_and_the_standard_is_followed(data: bytes, cuts: list[int]) -> None:
    expected = by_the_standard(data)
    for chunks in (pieces(data, cuts), [bytes([byte]) for byte in data]):
        assert [(m.event, m.data, m.id, m.retry) for m in decode(*chunks)] == expected


@given(st.binary(max_size=200), CUTS)
def test_any_bytes_in_any_pieces_decode_to_the_same(data: bytes, cuts: list[int]) -> None:
    assert decode(*pieces(data, cuts)) == decode(data) == decode(*(bytes([byte]) for byte in data))


JSON = st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(-(2**60), 2**60), max_size=4).map(
    msgspec.json.encode
)
NAMES = st.none() | st.sampled_from(["log", "node_update", "stream_end"])
FRAMES = st.lists(st.tuples(st.integers(0, 10**12), NAMES, JSON), max_size=6)


@given(FRAMES, CUTS, st.integers(0, 10**6))
def test_what_is_written_is_read_back(frames: list[tuple[int, str | None, bytes]], cuts: list[int], retry: int) -> None:
    stream = opening(retry) + b"".join(frame(f"e-{seq}", name, data) + HEARTBEAT for seq, name, data in frames)
    assert decode(*pieces(stream, cuts)) == [
        SseMessage(event=name or "message", data=data.decode(), id=f"e-{seq}", retry=retry)
        for seq, name, data in frames
    ]


@given(FRAMES)
def test_httpx_sse_reads_the_same_and_no_phantom_events(frames: list[tuple[int, str | None, bytes]]) -> None:
    stream = opening(2143) + b"".join(HEARTBEAT + frame(f"e-{seq}", name, data) for seq, name, data in frames)
    response = httpx.Response(
        200,
        headers={"content-type": "text/event-stream"},
        content=stream + HEARTBEAT,
        request=httpx.Request("GET", "http://x"),
    )
    theirs = [(event.event, event.data, event.id) for event in httpx_sse.EventSource(response).iter_sse()]
    assert theirs == [(m.event, m.data, m.id) for m in decode(stream + HEARTBEAT)]
    assert len(theirs) == len(frames)


@pytest.mark.parametrize(
    ("stream", "messages"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),  # examples of the standard
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [("message", "first event", "1"), ("message", "second event", ""), ("message", " third event", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("message", "test", ""), ("message", "test", "")]),
        (b"event: gap\n\ndata: x\n\n", [("message", "x", "")]),  # an event without data, and its name is gone
        (b"id: 1\n\ndata: x\n\n", [("message", "x", "1")]),
        (b"id: 1\0\nid: 2\ndata: x\nid: 3\0\n\n", [("message", "x", "2")]),
        (b"data: 0\n\n", [("message", "0", "")]),
        (b"data: x\n", []),
        (b"data: x\n\ndata: unfinished\nid: 9", [("message", "x", "")]),
        (b"data: x\r\ndata: y\rdata: z\n\r\n", [("message", "x\ny\nz", "")]),
        (b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: not first\n\n", [("message", "x", "")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
        (b"data: \xff\n\n", [("message", "�", "")]),
    ],
)
def test_streams_by_example(stream: bytes, messages: list[tuple[str, str, str]]) -> None:
    for cut in range(len(stream) + 1):
        assert [(m.event, m.data, m.id) for m in decode(stream[:cut], stream[cut:])] == messages


def test_the_last_event_id_moves_with_the_blank_line_and_not_before() -> None:
    decoder = SseDecoder()
    assert list(decoder.decode(b"id: 1\ndata: x\n")) == []
    assert decoder.last_event_id == ""
    assert len(list(decoder.decode(b"\nid: 2\n"))) == 1
    assert decoder.last_event_id == "1"
    assert list(decoder.decode(b"\n")) == []
    assert decoder.last_event_id == "2"  # also where nothing was dispatched


def test_retry_is_digits_only_and_kept() -> None:
    decoder = SseDecoder()
    for line, retry in [(b"10", 10), (b"", 10), (b"-5", 10), (b"1e3", 10), ("\u0663".encode(), 10), (b"007", 7)]:
        assert list(decoder.decode(b"retry: " + line + b"\n")) == []
        assert decoder.retry == retry


@pytest.mark.parametrize("name", ["", "DATA", "dat", "eve", "i", "ie", "retr", "retrying", "z"])
def test_a_field_that_nobody_knows_says_nothing(name: str) -> None:
    decoder = SseDecoder()
    stream = b"event: log\nid: 1\nretry: 5\ndata: x\n%b: 7\n\n" % name.encode()
    assert list(decoder.decode(stream)) == [SseMessage(event="log", data="x", id="1", retry=5)]


def test_the_longest_retry_has_ten_digits() -> None:
    decoder = SseDecoder()
    assert list(decoder.decode(b"retry: 9999999999\n")) == []
    assert decoder.retry == 9_999_999_999
    assert list(decoder.decode(b"retry: 10000000000\n")) == []
    assert decoder.retry == 9_999_999_999


def test_an_absurd_retry_does_not_end_the_stream() -> None:
    # int() refuses more than 4,300 digits
    assert [m.data for m in decode(b"retry: " + b"9" * 5000 + b"\ndata: x\n\n")] == ["x"]


def test_what_leaves_first_dispatches_nothing() -> None:
    decoder = SseDecoder()
    assert list(decoder.decode(opening(2143) + HEARTBEAT)) == []
    assert decoder.retry == 2143
    assert HEARTBEAT == b":\n"
