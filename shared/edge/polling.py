"""The polling edge: the same frames as JSON or ndjson, at once or after a wait."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from litestar import Response
from litestar.response import Stream

from shared.channel.channel import Channel
from shared.channel.log import HistoryTrimmed
from shared.channel.start import Start
from shared.edge.admission import Connection, Subscription, number, whole_number
from shared.protocol.control import Bookmark
from shared.protocol.formats import NdjsonFormat, json_frame
from shared.protocol.position import MAX_SEQ, Position
from shared.protocol.record import Record

NDJSON = "application/x-ndjson"
MAX_LIMIT = 1_000
MAX_WAIT_SECONDS = 60.0
MAX_PAGES = 20  # what one answer looks at when its filter hides nearly all; `next` says how far it came
_lines = NdjsonFormat()


@dataclass(frozen=True, slots=True)
class Poll:
    """What a request asks for beside its subscription. `until` is the last seq wanted."""

    limit: int | None
    wait_seconds: float
    until: int = MAX_SEQ
    ndjson: bool = False


def poll_of(connection: Connection) -> Poll:
    """From a request's parameters and Accept header. Raise BadInput, MalformedPosition."""
    limit = whole_number(connection, "limit", 0, 1, MAX_LIMIT) if "limit" in connection.query_params else None
    wait = number(connection, "wait", 0, 0, MAX_WAIT_SECONDS)
    until = connection.query_params.get("until")
    last = MAX_SEQ if until is None else Position.parse(until).seq
    return Poll(limit, wait, last, ndjson=NDJSON in connection.headers.get("accept", ""))


async def answer(subscription: Subscription, poll: Poll) -> Response[bytes] | Stream:
    """The events after the position. Raise Gone, LogUnavailable."""
    start = await subscription.start()
    if poll.wait_seconds:
        await _wait(subscription, start, poll.wait_seconds)
    if poll.ndjson:
        return Stream(_stream(subscription, start, poll), media_type=NDJSON, headers={"x-accel-buffering": "no"})
    return Response(await _page(subscription, start, poll), media_type="application/json")


async def _page(subscription: Subscription, start: Start, poll: Poll) -> bytes:
    records, scanned_to, head = await _collect(subscription, start.after, poll)
    epoch = start.state.epoch
    frames = [json_frame(f"{epoch}-{record.seq}", record.data) for record in records]
    if start.reset is not None:
        frames.insert(0, _lines.control(f"{epoch}-{start.after}", start.reset_frame()).rstrip())
    ended = subscription.ended if scanned_to >= head else None
    return b'{"data":[%b],"head":"%b","next":"%b","ended":%b}' % (
        b",".join(frames),
        f"{epoch}-{head}".encode(),
        f"{epoch}-{scanned_to}".encode(),
        b"null" if ended is None else b'"%b"' % ended.encode(),
    )


async def _collect(subscription: Subscription, after: int, poll: Poll) -> tuple[list[Record], int, int]:
    """Up to `limit` shown events, how far was scanned for them, and the head."""
    channel, limit, first = subscription.channel, poll.limit or 100, after
    records: list[Record] = []
    for _ in range(MAX_PAGES):
        page = await channel.read(subscription.filter, after, limit=limit - len(records))
        for record in page.records:
            if record.seq > poll.until:
                return records, max(first, poll.until), page.state.head
            if subscription.filter.shows(record):
                records.append(record)
        after = page.scanned_to
        if len(records) >= limit or after >= min(page.state.head, poll.until):
            break
    return records, max(first, min(after, poll.until)), max(page.state.head, after)


async def _stream(subscription: Subscription, start: Start, poll: Poll) -> AsyncIterator[bytes]:
    """Lines up to the head as it was at the start, page by page: no snapshot is held open meanwhile."""
    channel, epoch = subscription.channel, start.state.epoch
    after, head, left = start.after, min((await channel.ask()).head, poll.until), poll.limit or MAX_SEQ
    if start.reset is not None:
        yield _lines.control(f"{epoch}-{after}", start.reset_frame())
    while after < head and left > 0:
        try:
            page = await channel.read(subscription.filter, after, limit=min(left, channel.limits.page_events))
        except HistoryTrimmed:  # its events go while it reads: it is told, and asks again from its last position
            break
        records = [r for r in page.records if r.seq <= head and subscription.filter.shows(r)]
        if records:
            yield _lines.records(epoch, records)
        left -= len(records)
        after = min(page.scanned_to, head)
    yield _lines.control(f"{epoch}-{after}", Bookmark())


async def _wait(subscription: Subscription, start: Start, seconds: float) -> None:
    """Until something lies after the position, at most `seconds`; at once when nothing more can come."""
    if subscription.ended is not None or start.reset is not None:
        return
    channel: Channel = subscription.channel
    try:
        async with asyncio.timeout(seconds), channel.reader(subscription.filter, start, lossless=True) as reader:
            await reader.next()
    except (TimeoutError, HistoryTrimmed):
        return
