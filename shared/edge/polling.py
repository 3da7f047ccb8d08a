"""The polling edge: the same frames as JSON or ndjson, at once or after a wait."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from litestar import Response
from litestar.response import Stream
from msgspec import structs

from shared.channel.channel import Channel
from shared.channel.log import HistoryTrimmed, Page
from shared.channel.start import Start
from shared.edge.admission import Connection, CurrentPage, Subscription, number, whole_number
from shared.edge.problems import BadInput
from shared.edge.streams import Streams
from shared.protocol.control import Bookmark
from shared.protocol.formats import NdjsonFormat, json_frame
from shared.protocol.position import MAX_SEQ, Anchor, Position
from shared.protocol.record import DELETED, OVERHEAD_BYTES, Record

NDJSON = "application/x-ndjson"
MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
MAX_WAIT_SECONDS = 60.0
MAX_PAGES = 20  # what one answer looks at when its filter hides nearly all; `next` says how far it came
_lines = NdjsonFormat()


@dataclass(frozen=True, slots=True)
class Poll:
    """What a request asks for beside its subscription. `until` is the last seq wanted."""

    limit: int | None
    wait_seconds: float
    until: Position | None = None
    ndjson: bool = False

    @property
    def last_seq(self) -> int:
        return MAX_SEQ if self.until is None else self.until.seq


def poll_of(connection: Connection) -> Poll:
    """From a request's parameters and Accept header. Raise BadInput, MalformedPosition."""
    limit = whole_number(connection, "limit", 0, 1, MAX_LIMIT) if "limit" in connection.query_params else None
    wait = number(connection, "wait", 0, 0, MAX_WAIT_SECONDS)
    until = connection.query_params.get("until")
    last = None if until is None else Position.parse(until)
    return Poll(limit, wait, last, ndjson=NDJSON in connection.headers.get("accept", ""))


async def answer(subscription: Subscription, poll: Poll, streams: Streams) -> Response[bytes] | Stream:
    """The events after the position. Raise Gone, LogUnavailable."""
    start, current = await _begin(subscription, poll)
    try:
        if poll.wait_seconds and current is None:
            await _wait(subscription, start, poll.wait_seconds, streams)
        return await _answer(subscription, start, poll, current)
    except HistoryTrimmed:  # the log was restored or trimmed meanwhile: it is told of like any other reset
        if subscription.requested is Anchor.NOW:
            subscription = replace(subscription, requested=Position(start.state.epoch, start.after))
        start, current = await _begin(subscription, poll)
        return await _answer(subscription, start, poll, current)


async def _begin(subscription: Subscription, poll: Poll) -> tuple[Start, CurrentPage | None]:
    """Where the answer begins, and the newest of each key where it begins with those."""
    start = await subscription.start()
    current = None
    if subscription.current is not None and subscription.begins_with_current(start):
        current = await subscription.current(0, MAX_SEQ)
        start = structs.replace(start, state=current.state, after=current.state.head)
    if poll.until is not None and poll.until.epoch != start.state.epoch:
        raise BadInput(f"until is of another epoch; the log's is {start.state.epoch} now")
    return start, current


async def _answer(
    subscription: Subscription, start: Start, poll: Poll, current: CurrentPage | None
) -> Response[bytes] | Stream:
    if poll.ndjson:
        lines = _stream(subscription, start, poll, current)
        return Stream(lines, media_type=NDJSON, headers={"x-accel-buffering": "no"})
    return Response(await _page(subscription, start, poll, current), media_type="application/json")


async def _newest(subscription: Subscription, first: CurrentPage | None) -> AsyncIterator[list[Record]]:
    """The newest event of each key, page by page, all of them: there is no position from which the rest could be asked
    for, since retention may have trimmed what they were.
    """
    page = first
    while page is not None and page.records:
        assert first is not None
        assert subscription.current is not None
        yield [record for record in page.records if subscription.filter.shows(record)]
        page = await subscription.current(page.records[-1].seq, first.state.head)


def _reset_frame(start: Start, first: CurrentPage | None) -> bytes:
    """Its id lies before all that follows it: whoever is cut off there gets that again."""
    seq = first.records[0].seq - 1 if first is not None and first.records else start.after
    return _lines.control(f"{start.state.epoch}-{seq}", start.reset_frame())


async def _page(subscription: Subscription, start: Start, poll: Poll, current: CurrentPage | None) -> bytes:
    newest = [record async for page in _newest(subscription, current) for record in page]
    found = await _collect(subscription, start, poll)
    epoch = start.state.epoch
    frames = [json_frame(f"{epoch}-{record.seq}", record.data) for record in (*newest, *found.records)]
    if start.reset is not None:
        frames.insert(0, _reset_frame(start, current).rstrip())
    return b'{"data":[%b],"head":"%b","next":"%b","ended":%b}' % (
        b",".join(frames),
        f"{epoch}-{found.head}".encode(),
        f"{epoch}-{found.scanned_to}".encode(),
        b"null" if found.ended is None else b'"%b"' % found.ended.encode(),
    )


@dataclass(slots=True)
class _Found:
    """Shown events, how far was scanned for them, the head, and the subject's terminal status once that was reached."""

    records: list[Record]
    scanned_to: int
    head: int
    ended: str | None = None


async def _collect(subscription: Subscription, start: Start, poll: Poll) -> _Found:
    end, limit = subscription.ended, poll.limit or _usual_limit(subscription.channel, poll)
    found = _Found([], start.after, start.state.head)
    for _ in range(MAX_PAGES):
        page = await _read(subscription, start, found.scanned_to, limit - len(found.records))
        if page.state.epoch != start.state.epoch:
            raise HistoryTrimmed("the log has begun a new epoch")
        wanted = [record for record in page.records if record.seq <= poll.last_seq]
        found.records += [record for record in wanted if subscription.filter.shows(record)]
        end = next((record.ends for record in wanted if subscription.filter.is_end(record)), end)
        found.head = max(page.state.head, page.scanned_to)
        found.scanned_to = max(start.after, min(page.scanned_to, poll.last_seq))
        if len(found.records) >= limit or page.scanned_to >= min(page.state.head, poll.last_seq):
            break
    found.ended = end if found.scanned_to >= found.head else None
    return found


def _usual_limit(channel: Channel, poll: Poll) -> int:
    """What an answer holds when the request names no limit; up to a position: as much as one gap can stand for, so that
    its backfill is one request.
    """
    return DEFAULT_LIMIT if poll.until is None else channel.limits.page_bytes // OVERHEAD_BYTES + 1


async def _stream(
    subscription: Subscription, start: Start, poll: Poll, current: CurrentPage | None
) -> AsyncIterator[bytes]:
    """Lines up to the head as it was at the start, page by page: no snapshot is held open meanwhile."""
    channel, epoch = subscription.channel, start.state.epoch
    after, head, left = start.after, min((await channel.ask()).head, poll.last_seq), poll.limit or MAX_SEQ
    if start.reset is not None:
        yield _reset_frame(start, current)
    async for newest in _newest(subscription, current):
        yield _lines.records(epoch, newest)
    while after < head and left > 0:
        try:
            page = await _read(subscription, start, after, min(left, channel.limits.page_events))
        except HistoryTrimmed:  # its events go while it reads: it asks again from its last position, and is told
            break
        if page.state.epoch != epoch or page.scanned_to <= after:
            break
        records = [r for r in page.records if r.seq <= head and subscription.filter.shows(r)]
        if records:
            yield _lines.records(epoch, records)
        left -= len(records)
        after = min(page.scanned_to, head)
    yield _lines.control(f"{epoch}-{after}", Bookmark())


async def _read(subscription: Subscription, start: Start, after: int, limit: int) -> Page:
    """A page of what is shown: of what was there before the request came, its history, where that is less."""
    history, there = subscription.history, start.state.head
    shown = history if history is not None and after < there else subscription.filter
    page = await subscription.channel.read(shown, after, limit=limit)
    upto = page.scanned_to if shown is subscription.filter else min(page.scanned_to, there)
    hidden = DELETED if shown.ends_with_subject else None  # not a word about it: the next request is answered with 404
    wanted = (record for record in page.records if record.seq <= upto and shown.wants(record))
    return Page(tuple(r for r in wanted if hidden is None or r.ends != hidden), upto, page.state)


async def _wait(subscription: Subscription, start: Start, seconds: float, streams: Streams) -> None:
    """Until something lies after the position, at most `seconds`; at once when nothing more can come. Raise
    HistoryTrimmed when what lies there has gone.
    """
    if subscription.ended is not None or start.reset is not None:
        return
    async with subscription.channel.reader(
        subscription.filter, start, lossless=True, history=subscription.history
    ) as reader:
        await streams.first_of(reader.next(), seconds=seconds)
