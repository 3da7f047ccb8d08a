"""What an SSE connection makes of the bytes of a body, cut anywhere."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.client.connection import Cut, Frame
from shared.client.sse import SseConnection
from shared.protocol.sse import HEARTBEAT, frame, opening

A, B = {"type": "a", "n": 1}, {"type": "b", "t": "ä☃\u2028"}
JSON_A, JSON_B = json.dumps(A).encode(), json.dumps(B, ensure_ascii=False).encode()


class Body(httpx.AsyncByteStream):
    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def received(*chunks: bytes) -> tuple[list[Frame], Cut]:
    """All frames, and the cut at the end."""

    async def read() -> tuple[list[Frame], Cut]:
        async with httpx.AsyncClient() as http:
            connection = SseConnection(http, httpx.Response(200, stream=Body([c for c in chunks if c])))
            frames: list[Frame] = []
            while True:
                try:
                    frames.extend(await connection.receive())
                except Cut as cut:
                    return frames, cut

    return asyncio.run(read())


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    inside = sorted({place for place in places if 0 < place < len(data)})
    return [data[begin:end] for begin, end in itertools.pairwise([0, *inside, len(data)])]


STREAMS = {
    "LF": b"id: e-1\nevent: a\ndata: %b\n\nid: e-2\ndata: %b\n\n" % (JSON_A, JSON_B),
    "CRLF": b"id: e-1\r\nevent: a\r\ndata: %b\r\n\r\nid: e-2\r\ndata: %b\r\n\r\n" % (JSON_A, JSON_B),
    "CR": b"id: e-1\revent: a\rdata: %b\r\rid: e-2\rdata: %b\r\r" % (JSON_A, JSON_B),
    "mixed": b"id: e-1\revent: a\r\ndata: %b\n\r\nid: e-2\ndata: %b\r\n\r" % (JSON_A, JSON_B),
    "BOM": b"\xef\xbb\xbfid: e-1\ndata: %b\n\nid: e-2\ndata: %b\n\n" % (JSON_A, JSON_B),
    "comments": b": open\nid: e-1\n: data: no\ndata: %b\n:\n\n:\n:\nid: e-2\ndata:%b\n\n: bye\n" % (JSON_A, JSON_B),
    "lines": b'id: e-1\ndata: {"type": "a",\ndata:  "n": 1}\n\nid: e-2\ndata: %b\n\n' % JSON_B,
    "NUL": b"id: e-1\nid: e\0-9\ndata: %b\n\nid: e-2\ndata: %b\nid: \0\n\n" % (JSON_A, JSON_B),
    "no data": b"id: e-0\nevent: a\n\nid: e-1\ndata: %b\n\nid: e-2\ndata: %b\n\nid: e-3\n\n" % (JSON_A, JSON_B),
    "unfinished": b"id: e-1\ndata: %b\n\nid: e-2\ndata: %b\n\nid: e-3\ndata: %b\n" % (JSON_A, JSON_B, JSON_A),
    "other fields": b"foo: bar\nid: e-1\ndata: %b\nDATA: x\n\nid: e-2\ndata: %b\n\n" % (JSON_A, JSON_B),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_that_the_standard_allows_are_read_wherever_they_are_cut(name: str) -> None:
    data = STREAMS[name]
    pieces = [[data], [bytes([byte]) for byte in data], *([data[:at], data[at:]] for at in range(1, len(data), 7))]
    for chunks in pieces:
        frames, _ = received(*chunks)
        assert [(frame.id, json.loads(frame.data)) for frame in frames] == [("e-1", A), ("e-2", B)]


def test_an_id_is_kept_until_there_is_another() -> None:
    frames, _ = received(b"id: e-1\ndata: {}\n\ndata: {}\n\nid\ndata: {}\n\n")
    assert [frame.id for frame in frames] == ["e-1", "e-1", ""]


@pytest.mark.parametrize(
    ("data", "seconds"),
    [(b"", None), (b"retry: 700\n", 0.7), (b"retry: x\n", None), (b"retry: 700\r\nretry: -1\r\n", 0.7)],
)
def test_the_last_retry_time_goes_with_the_cut(data: bytes, seconds: float | None) -> None:
    _, told = received(data)
    assert told.asked_seconds == seconds


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.dictionaries(st.text(max_size=4), st.text(max_size=9), max_size=3))),
    st.lists(st.integers(0, 2_000), max_size=15),
)
def test_what_our_server_writes_is_read_however_it_is_cut(
    events: list[tuple[int, dict[str, str]]], places: list[int]
) -> None:
    data = opening(2143) + b"".join(
        HEARTBEAT + frame(f"e-{seq}", "x", json.dumps(event).encode()) for seq, event in events
    )
    frames, told = received(*cut(data, places))
    assert [(frame.id, json.loads(frame.data)) for frame in frames] == [(f"e-{seq}", event) for seq, event in events]
    assert told.asked_seconds == 2.143
