"""Holds what came against what must come."""

from collections.abc import Iterator

from tests.conformance.reading import Reading
from tests.conformance.stage import Stage
from tests.conformance.table import Comes
from tests.conformance.ways import Asked, Way
from tests.support.contract import Frame

# docs/protocol.md, Ends: whether it is final, and the code of a WebSocket that has only this stream
ENDS = {
    "terminal": (True, 1000),
    "max_ticks": (True, 1000),
    "access_revoked": (True, 4404),
    "token_expired": (False, 4401),
    "server_shutdown": (False, 1012),
    "max_duration": (False, 1012),
    "slow_reader": (False, 4408),
}


def faults(way: Way, asked: Asked, stage: Stage, comes: Comes, reading: Reading) -> list[str]:
    """What is wrong, in words. Empty: it is as the table says."""
    if comes.refused is not None:
        found = _refusal(comes.refused, reading)
    elif reading.refused is not None and not (way.kind == "poll" and reading.refused[0] == comes.then_refused):
        found = iter([f"refused: {reading.refused}"])
    else:
        judge = {"stream": _stream, "poll": _poll, "client": _client}[way.kind]
        found = judge(way, asked, stage, comes, reading)
    return list(found)


def _refusal(wanted: tuple[int, str], reading: Reading) -> Iterator[str]:
    status, words = wanted
    if reading.refused is None:
        yield f"not refused: {reading.frames}"
    else:
        told, problem = reading.refused
        if told != status or problem["status"] != status or words not in problem["detail"] + problem.get("reason", ""):
            yield f"refused with {told}: {problem}, not {wanted}"
        if reading.frames:
            yield f"frames before the refusal: {reading.frames}"


def _events(stage: Stage, asked: Asked, wanted: str, frames: list[Frame], when: str) -> Iterator[str]:
    came = stage.labels(asked.service, frames)
    if came != wanted:
        yield f"{when} came {came!r}, not {wanted!r}"


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────────────


def _stream(way: Way, asked: Asked, stage: Stage, comes: Comes, reading: Reading) -> Iterator[str]:
    if comes.over and way.name == "sse":
        if not reading.is_over or reading.frames:
            yield f"not 204: {reading.frames}"
        return
    names = [frame.type for frame in reading.frames if frame.type != "bookmark"]
    split = reading.live_after if reading.live_after is not None else 0
    yield from _events(stage, asked, comes.history, reading.events[:split], "before live")
    yield from _events(stage, asked, comes.live, reading.events[split:], "after live")
    if names[:1] != ["hello"] or names.count("hello") != 1 or names.count("live") != 1:
        yield f"not one hello first and one live: {names}"
        return
    hello, live = reading.words("hello")[0], reading.words("live")[0]
    if comes.resumed is not None and hello.event["resumed"] is not comes.resumed:
        yield f"hello says resumed: {hello.event['resumed']}"
    if live.event["replayed"] != len([label for label in comes.history.split() if ":" not in label]):
        yield f"live says {live.event}"
    yield from _order(asked, stage, reading)
    yield from _end(way, comes, reading)


def _order(asked: Asked, stage: Stage, reading: Reading) -> Iterator[str]:
    """Ids never go back, but for a reset."""
    last: tuple[int, int] = (0, -1)
    for frame in reading.frames:
        epoch, _, seq = str(frame.id).rpartition("-")
        if frame.type == "hello" and not frame.event["resumed"]:
            continue  # where a reset follows, it has the position that was asked for
        if epoch not in stage.epochs[asked.service]:
            yield f"an id of no epoch: {frame}"
            return
        place = stage.epochs[asked.service].index(epoch), int(seq)
        if place < last:
            yield f"an id that goes back: {frame} after {last}"
        last = place


def _end(way: Way, comes: Comes, reading: Reading) -> Iterator[str]:
    ends = reading.words("stream_end")
    if comes.end is None:
        if ends:
            yield f"it ended: {ends}"
        return
    reason, _, status = comes.end.partition(" ")
    final, code = ENDS[reason]
    if not ends or reading.frames[-1] is not ends[0] or len(ends) > 1:
        yield f"no end at the end: {reading.frames[-1:]}"
        return
    told = ends[0].event
    if (told["reason"], told["status"] or "", told["final"], told["last_id"]) != (reason, status, final, ends[0].id):
        yield f"it ended with {told}"
    if final is (told["retry_after_ms"] is not None):
        yield f"when to come back: {told}"
    if way.name.startswith("websocket") and reading.close_code != code:
        yield f"closed with {reading.close_code}, not {code}"


# ── the others ─────────────────────────────────────────────────────────────────────────────────────────────────


def _poll(way: Way, asked: Asked, stage: Stage, comes: Comes, reading: Reading) -> Iterator[str]:
    wanted = f"{comes.history} {comes.live}".strip() if comes.polled is None else comes.polled
    yield from _events(stage, asked, wanted, reading.events, "in all")
    reason, _, status = (comes.end or "").partition(" ")
    told = status if reason == "terminal" and way.name == "polling" else None
    if reading.ended != told:
        yield f"ended is {reading.ended}, not {told}"
    if comes.then_refused is not None and reading.refused is None:
        yield f"not refused afterwards with {comes.then_refused}"


def _client(way: Way, asked: Asked, stage: Stage, comes: Comes, reading: Reading) -> Iterator[str]:
    split = len(reading.events) if reading.live_after is None else reading.live_after
    yield from _events(stage, asked, comes.history, reading.events[:split], "before live")
    yield from _events(stage, asked, comes.live, reading.events[split:], "after live")
    if comes.over:
        if not str(reading.ended).startswith("terminal"):
            yield f"ended with {reading.ended}"
    elif comes.end is not None and reading.ended not in (comes.end, f"{comes.end} None"):
        yield f"ended with {reading.ended}, not {comes.end}"
    elif comes.end is None and reading.ended is not None:
        yield f"it ended: {reading.ended}"
