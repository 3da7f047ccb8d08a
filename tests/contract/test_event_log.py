"""The contract of an EventLog, on every implementation."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from shared.channel.log import (
    MAX_EVENT_BYTES,
    Change,
    Command,
    Committed,
    EventTooLarge,
    HistoryTrimmed,
    Outcome,
    Page,
    Transaction,
)
from shared.protocol.filter import Filter
from shared.protocol.position import LogState, Position
from shared.protocol.record import Draft, Record
from tests.contract.places import Log, Place
from tests.unit.protocol.sample import draft

ALL = Filter(tenant=None)
BIG = 10**9


class RefusedError(Exception):
    """What a change raises that finds a transition illegal."""


def refusing() -> Command[None]:
    async def change(transaction: Transaction) -> Outcome[None]:
        raise RefusedError

    return Command([draft("status", "run/refused")], change=change)


def telling(*drafts: Draft, value: object = None) -> Command[Any]:
    async def change(transaction: Transaction) -> Outcome[Any]:
        return Outcome((value, transaction.epoch, transaction.next_seq), drafts)

    return Command(change=change)


async def publish(log: Log, *drafts: Draft) -> Committed[None]:
    (result,) = await log.append([Command(drafts)])
    assert isinstance(result, Committed)
    return result


async def read(log: Log, filter: Filter = ALL, after: int = 0, *, limit: int = 10_000, max_bytes: int = BIG) -> Page:
    return await log.read(filter, after, limit=limit, max_bytes=max_bytes)


async def read_all(log: Log, filter: Filter, after: int = 0, *, limit: int = 10_000, max_bytes: int = BIG) -> list[int]:
    """Page by page to the head; every page must make progress and never pass over a wanted event."""
    seqs: list[int] = []
    while True:
        page = await read(log, filter, after, limit=limit, max_bytes=max_bytes)
        here = [record.seq for record in page.records]
        assert len(here) <= limit
        assert here == sorted(set(here))
        assert all(after < seq <= page.scanned_to for seq in here)
        assert page.scanned_to <= max(page.state.head, after)
        seqs += here
        if page.scanned_to >= page.state.head:
            return seqs
        assert page.scanned_to > after, "a page that makes no progress would be asked for again and again"
        after = page.scanned_to


# ── append ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_empty_log_is_at_zero(place: Place) -> None:
    log = await place.open()
    state = await log.state()
    assert (state.head, state.oldest, state.start) == (0, 1, 0)
    assert Position.parse(str(Position(state.epoch, 0))).epoch == state.epoch
    page = await read(log)
    assert (page.records, page.scanned_to, page.state) == ((), 0, state)


async def test_events_get_the_seqs_one_two_three_in_the_order_they_were_given(place: Place) -> None:
    log = await place.open()
    results = await log.append(
        [Command([draft("log"), draft("token")]), Command([]), Command([draft("status")]), Command([draft("log")])]
    )
    committed = [result for result in results if isinstance(result, Committed)]
    epoch = (await log.state()).epoch
    assert [result.last for result in committed] == [Position(epoch, seq) for seq in (2, 2, 3, 4)]
    assert [[r.seq for r in result.records] for result in committed] == [[1, 2], [], [3], [4]]
    stored = (await read(log)).records
    assert [(r.seq, r.type) for r in stored] == [(1, "log"), (2, "token"), (3, "status"), (4, "log")]
    assert stored == tuple(record for result in committed for record in result.records)
    assert (await log.state()).head == 4


async def test_an_event_is_read_back_with_all_its_fields_and_the_same_bytes(place: Place) -> None:
    log = await place.open()
    drafts = [
        draft(data=b'{"a":"\\u0000 \xc3\xa9 \xf0\x9f\x98\x80"}'),
        draft("x.y_z", "session/ä\\'\"%{}", tenant="☃", session="s", worker="w", ends="failed", data=b"x" * 100_000),
        draft(session="", worker="", ends="", data=b""),
    ]
    committed = await publish(log, *drafts)
    assert (
        (await read(log)).records
        == committed.records
        == tuple(Record.of(seq, each) for seq, each in enumerate(drafts, start=1))
    )


async def test_an_append_without_events_says_where_the_head_is(place: Place) -> None:
    log = await place.open()
    await publish(log, draft(), draft())
    assert (await publish(log)).last.seq == 2
    assert [r.last.seq for r in await log.append([telling(), telling()]) if isinstance(r, Committed)] == [2, 2]
    assert await log.append([]) == []


async def test_a_change_knows_the_epoch_and_the_seq_its_events_get(place: Place) -> None:
    log = await place.open()
    epoch = (await log.state()).epoch
    await publish(log, draft())
    change = telling(draft("status"), value="mine").change
    results = await log.append([telling(draft()), refusing(), Command([draft("log")], change), telling()])
    values = [result.value for result in results if isinstance(result, Committed)]
    assert values == [(None, epoch, 2), ("mine", epoch, 4), (None, epoch, 5)]
    assert [r.type for r in (await read(log)).records] == ["log", "log", "log", "status"]


@pytest.mark.parametrize("place_of_the_refused", [0, 1, 2])
async def test_a_refused_command_fails_alone_and_nothing_of_it_is_stored(
    place: Place, place_of_the_refused: int
) -> None:
    log = await place.open()
    commands: list[Command[Any]] = [Command([draft("log"), draft("log")]), telling(draft("status"))]
    commands.insert(place_of_the_refused, refusing())
    results = await log.append(commands)
    assert [isinstance(result, RefusedError) for result in results] == [n == place_of_the_refused for n in range(3)]
    assert [(r.seq, r.type) for r in (await read(log)).records] == [(1, "log"), (2, "log"), (3, "status")]
    assert (await publish(log, draft())).last.seq == 4


async def test_a_refused_command_alone_leaves_the_log_as_it_was(place: Place) -> None:
    log = await place.open()
    before = await log.state()
    (result,) = await log.append([refusing()])
    assert isinstance(result, RefusedError)
    assert await log.state() == before
    results = await log.append([refusing(), refusing()])
    assert [type(result) for result in results] == [RefusedError, RefusedError]
    assert await log.state() == before
    assert (await publish(log, draft())).last.seq == 1


BAD_ROWS = [
    pytest.param(draft(tenant="a\0b"), id="NUL in the tenant"),
    pytest.param(draft("lo\0g"), id="NUL in the type"),
    pytest.param(draft(subject="run/\ud800"), id="lone surrogate in the subject"),
    pytest.param(draft(session="\udfff"), id="lone surrogate in the session"),
    pytest.param(draft(worker="\0"), id="NUL in the worker"),
]


@pytest.mark.parametrize("bad", BAD_ROWS)
@pytest.mark.parametrize("changes", [False, True])
async def test_a_command_with_a_row_that_cannot_be_stored_fails_alone(place: Place, bad: Draft, changes: bool) -> None:
    log = await place.open()
    good: Command[Any] = telling(draft("status")) if changes else Command([draft("status")])
    results = await log.append([good, Command([draft("token"), bad, draft("token")]), good])
    assert isinstance(results[0], Committed)
    assert isinstance(results[1], Exception)
    assert isinstance(results[2], Committed)
    assert [(r.seq, r.type) for r in (await read(log)).records] == [(1, "status"), (2, "status")]
    assert [result.last.seq for result in results if isinstance(result, Committed)] == [1, 2]
    (alone,) = await log.append([Command([bad])])
    assert isinstance(alone, Exception)
    assert (await publish(log, draft())).last.seq == 3


async def test_a_change_whose_event_is_too_large_fails_alone(place: Place) -> None:
    log = await place.open()
    large = draft(data=b"x" * (MAX_EVENT_BYTES + 1))
    results = await log.append([telling(draft()), telling(large), telling(draft())])
    assert [type(result) for result in results] == [Committed, EventTooLarge, Committed]
    assert (await log.state()).head == 2


# ── read ───────────────────────────────────────────────────────────────────────────────────────────────────────────

FILTERS = [
    ALL,
    Filter(tenant="a"),
    Filter(tenant="nobody"),
    Filter(tenant="a", subjects=("run/1",)),
    Filter(tenant=None, subjects=("run/1",)),
    Filter(tenant="a", subjects=("run/1", "run/2", "run/nothing")),
    Filter(tenant="a", subjects=("run/2", "run/1"), types=("log", "status")),
    Filter(tenant="a", subjects=()),
    Filter(tenant="a", session="s1"),
    Filter(tenant=None, session="s1"),
    Filter(tenant="a", session="s1", worker="w1"),
    Filter(tenant="a", session="s1", subjects=("run/1",)),
    Filter(tenant="a", session="s2", types=("worker.*",)),
    Filter(tenant="a", worker="w1"),
    Filter(tenant="a", types=("log",)),
    Filter(tenant="a", types=("*o*", "worker.state")),
    Filter(tenant="a", types=("worker?state", "l.g")),
    Filter(tenant="a", types=()),
    Filter(tenant="a", subjects=("run/1",), types=("log",)),  # and its hidden end
    Filter(tenant="a", subjects=("run/1",), types=("log",), worker="w1"),
    Filter(tenant="a", subjects=("run/1",), types=("log",), endless=True),
    Filter(tenant="a", subjects=("run/1", "run/2"), types=("log",)),
    Filter(tenant="a", subjects=("run/1",), session="s1", types=("token",)),
]


def mixed(count: int, seed: int) -> list[Draft]:
    rng = random.Random(seed)
    return [
        draft(
            rng.choice(["log", "token", "snapshot", "worker.state", "status"]),
            rng.choice(["run/1", "run/2", "run/3"]),
            tenant=rng.choice("ab"),
            session=rng.choice([None, "s1", "s2"]),
            worker=rng.choice([None, "w1", "w2"]),
            ends=rng.choice([None, None, None, "done"]),
            data=b"x" * rng.choice([0, 10, 1000]),
        )
        for _ in range(count)
    ]


async def test_each_kind_of_filter_reads_just_what_it_wants_in_pages_of_any_size(place: Place) -> None:
    log = await place.open()
    records = (await publish(log, *mixed(150, seed=7))).records
    for filter in FILTERS:
        wanted = [record.seq for record in records if filter.wants(record)]
        for limit, max_bytes in [(1_000, BIG), (1, BIG), (7, BIG), (1_000, 1), (1_000, 1_500), (3, 2_000)]:
            assert await read_all(log, filter, limit=limit, max_bytes=max_bytes) == wanted, (filter, limit, max_bytes)
        after = records[70].seq
        assert await read_all(log, filter, after) == [seq for seq in wanted if seq > after], filter
    assert sum(any(f.wants(r) for r in records) for f in FILTERS) > len(FILTERS) - 5, "the filters see something"


async def test_a_subject_that_is_named_twice_is_read_once(place: Place) -> None:
    log = await place.open()
    await publish(log, draft(subject="run/1"), draft(subject="run/2"))
    assert await read_all(log, Filter(tenant="t", subjects=("run/1", "run/2", "run/1"))) == [1, 2]


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 100_000])
async def test_a_filter_that_no_event_can_fit_finds_nothing(place: Place, text: str) -> None:
    # such as a worker's name in a URL
    log = await place.open()
    await publish(log, draft())
    for filter in (
        Filter(tenant=text),
        Filter(tenant="t", subjects=(text,)),
        Filter(tenant="t", session=text),
        Filter(tenant="t", session="s", worker=text),
    ):
        page = await read(log, filter)
        assert (page.records, page.scanned_to) == ((), 1)


async def test_a_page_is_about_max_bytes_and_holds_at_least_one_event(place: Place) -> None:
    log = await place.open()
    await publish(log, *(draft(data=b"x" * 1_000) for _ in range(20)))
    for max_bytes, count in [(1, 1), (999, 1), (1_000, 1), (5_000, 5), (BIG, 20)]:
        page = await read(log, max_bytes=max_bytes)
        assert count <= len(page.records) <= count + 1
        assert page.scanned_to == page.records[-1].seq


async def test_a_page_says_how_far_it_has_looked(place: Place) -> None:
    log = await place.open()
    await publish(log, *(draft(subject=f"run/{n % 10}") for n in range(100)))
    page = await read(log, Filter(tenant="t", subjects=("run/3",)))
    assert ([r.seq for r in page.records][-1], page.scanned_to) == (94, 100)  # all seen, though the last are not shown
    page = await read(log, Filter(tenant="t", subjects=("run/3",)), limit=2)
    assert [r.seq for r in page.records] == [4, 14]
    assert 14 <= page.scanned_to < 24
    page = await read(log, Filter(tenant="t", subjects=("run/3",)), after=94, limit=2)
    assert (page.records, page.scanned_to) == ((), 100)


async def test_a_position_ahead_of_the_head_stays_where_it_is(place: Place) -> None:
    log = await place.open()
    await publish(log, draft())
    page = await read(log, after=1_000)
    assert (page.records, page.scanned_to, page.state.head) == ((), 1_000, 1)


@pytest.mark.parametrize(
    "filter",
    [
        Filter(tenant="t", types=("status",)),
        Filter(tenant="t", worker="w"),
        Filter(tenant="t", subjects=("run/1",), types=("status",)),
        Filter(tenant="t", subjects=("run/1", "run/0"), types=("status",)),
        Filter(tenant="t", session="s", types=("status",)),
        Filter(tenant="other"),
    ],
)
async def test_one_call_is_bounded_in_what_it_looks_at_and_still_makes_progress(place: Place, filter: Filter) -> None:
    log = await place.open()
    filler = [draft(session="s") for _ in range(2_500)]
    sparse = [draft("status", session="s", worker="w"), draft("status", tenant="other")]
    await publish(log, *filler, *sparse, *filler, *sparse)
    first = await read(log, filter, limit=10)
    assert first.records == ()
    assert 0 < first.scanned_to < 2_501
    wanted = {"other": [2502, 5004]}.get(str(filter.tenant), [2501, 5003])
    assert await read_all(log, filter, limit=10) == wanted


# ── retention ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_trimming_by_count_keeps_the_newest_and_appends_go_on(place: Place) -> None:
    log = await place.open()
    await publish(log, *mixed(50, seed=1))
    state = await log.trim(max_age_seconds=None, max_events=20)
    assert (state.head, state.oldest) == (50, 31)
    assert await log.state() == state
    assert [r.seq for r in (await read(log, after=30)).records] == list(range(31, 51))
    assert (await publish(log, draft())).last.seq == 51
    assert (await log.trim(max_age_seconds=None, max_events=1000)).oldest == 31  # it never goes back
    assert (await log.trim(max_age_seconds=None, max_events=20)).oldest == 32


async def test_trimming_by_age_takes_a_prefix_only(place: Place) -> None:
    log = await place.open()
    await publish(log, *(draft() for _ in range(10)))
    await place.grow_old(4, 3_600)
    assert (await log.trim(max_age_seconds=7_200, max_events=None)).oldest == 1
    assert (await log.trim(max_age_seconds=60, max_events=None)).oldest == 5
    assert [r.seq for r in (await read(log, after=4)).records] == [5, 6, 7, 8, 9, 10]
    await place.grow_old(6, 3_600)
    assert (await log.trim(max_age_seconds=60, max_events=2)).oldest == 9  # whichever bound is the tighter
    assert (await log.trim(max_age_seconds=None, max_events=None)).oldest == 9


async def test_everything_can_be_trimmed_and_the_seqs_go_on(place: Place) -> None:
    log = await place.open()
    await publish(log, draft(), draft(), draft())
    state = await log.trim(max_age_seconds=None, max_events=0)
    assert (state.head, state.oldest, state.start) == (3, 4, 3)
    page = await read(log, after=3)
    assert (page.records, page.scanned_to) == ((), 3)
    assert (await publish(log, draft())).records[0].seq == 4
    assert [r.seq for r in (await read(log, after=3)).records] == [4]


async def test_an_empty_log_can_be_trimmed(place: Place) -> None:
    log = await place.open()
    state = await log.trim(max_age_seconds=0, max_events=0)
    assert (state.head, state.oldest) == (0, 1)
    assert (await publish(log, draft())).last.seq == 1


@pytest.mark.parametrize("filter", [ALL, Filter(tenant="t", subjects=("run/1",)), Filter(tenant="t", session="s")])
async def test_reading_from_before_what_is_kept_says_so(place: Place, filter: Filter) -> None:
    log = await place.open()
    await publish(log, *(draft() for _ in range(10)))
    await log.trim(max_age_seconds=None, max_events=4)
    for after in (0, 5):
        with pytest.raises(HistoryTrimmed):
            await read(log, filter, after)
    assert (await read(log, filter, after=6)).state.oldest == 7


# ── epochs and news ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_another_process_finds_the_same_log_in_the_same_epoch(place: Place) -> None:
    first = await place.open()
    await publish(first, draft(), draft())
    second = await place.open()
    assert await second.state() == await first.state() == await second.start()
    assert (await publish(second, draft())).last == Position((await first.state()).epoch, 3)
    assert (await read(first)).records == (await read(second)).records


async def test_a_new_epoch_has_another_name_and_the_same_events(place: Place) -> None:
    log, other = await place.open(), await place.open()
    await publish(log, draft(), draft())
    before = await log.state()
    after = await log.new_epoch()
    assert after.epoch != before.epoch
    assert (after.head, after.oldest) == (before.head, before.oldest)
    assert await other.state() == after
    assert (await publish(other, draft())).last == Position(after.epoch, 3)
    assert (await read(log)).state.epoch == after.epoch


async def heads_until(log: Log, head: int, epoch: str) -> LogState:
    async with asyncio.timeout(10), aclosing(log.heads()) as heads:  # type: ignore[type-var]  # a generator in both
        async for state in heads:
            if (state.epoch, state.head) == (epoch, head):
                return state
    raise AssertionError("the news ended")


async def test_news_begin_with_the_state_as_it_is(place: Place) -> None:
    log = await place.open()
    await publish(log, draft())
    await log.trim(max_age_seconds=None, max_events=0)
    async with asyncio.timeout(10), aclosing(log.heads()) as heads:  # type: ignore[type-var]  # a generator in both
        assert await anext(heads) == await log.state()


async def test_news_come_from_any_process_and_tell_of_new_epochs(place: Place) -> None:
    log, other = await place.open(), await place.open()
    async with asyncio.timeout(10), aclosing(log.heads()) as heads:  # type: ignore[type-var]  # a generator in both
        state = await anext(heads)

        async def hear(head: int, epoch: str) -> None:
            while True:
                state = await anext(heads)
                if (state.head, state.epoch) == (head, epoch):
                    return

        for writer in (other, log, other):
            last = (await publish(writer, draft())).last
            await hear(last.seq, state.epoch)
        (result,) = await other.append([telling(draft(), draft())])
        assert isinstance(result, Committed)
        await hear(5, state.epoch)
        await hear(5, (await other.new_epoch()).epoch)


async def test_each_of_many_appends_becomes_news_in_the_end(place: Place) -> None:
    log, other = await place.open(), await place.open()
    epoch = (await log.state()).epoch
    hearing = asyncio.create_task(heads_until(log, 60, epoch))
    for _ in range(20):
        await publish(other, draft(), draft(), draft())
    assert (await hearing).head == 60


async def test_closing_twice_is_harmless(place: Place) -> None:
    log = await place.open()
    await publish(log, draft())
    await log.close()
    await log.close()


# ── several writers ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_two_processes_append_at_once_into_one_order_without_holes(place: Place) -> None:
    logs = [await place.open(), await place.open()]

    async def write(number: int, log: Log) -> list[Committed[Any]]:
        rng = random.Random(number)
        done: list[Committed[Any]] = []
        for turn in range(25):
            name = f"run/{number}.{turn}"
            commands: Sequence[Command[Any]] = [
                rng.choice(
                    [Command([draft(subject=name)] * rng.randint(0, 3)), telling(draft(subject=name)), refusing()]
                )
                for _ in range(rng.randint(1, 3))
            ]
            done += [result for result in await log.append(commands) if isinstance(result, Committed)]
        return done

    async def watch(log: Log) -> list[int]:
        """A reader beside them: it must never see a seq before a smaller one."""
        seqs: list[int] = []
        while True:
            page = await read(log, after=seqs[-1] if seqs else 0, limit=7)
            seqs += [record.seq for record in page.records]
            assert page.scanned_to == (seqs[-1] if seqs else 0)
            if writing.done() and page.scanned_to == (await log.state()).head:
                return seqs
            await asyncio.sleep(0)

    async with asyncio.timeout(20):
        writing = asyncio.gather(*(write(number, log) for number, log in enumerate(logs)))
        watching = asyncio.create_task(watch(logs[1]))
        parts = await writing
        seen = await watching
    records = [record for part in parts for result in part for record in result.records]
    head = (await logs[0].state()).head
    assert seen == sorted(record.seq for record in records) == list(range(1, head + 1))
    assert list((await read(logs[0])).records) == sorted(records, key=lambda record: record.seq)
    for part in parts:
        own = [result.last.seq for result in part]
        assert own == sorted(own)


async def test_changes_run_serially(place: Place) -> None:
    logs = [await place.open(), await place.open()]
    inside = 0

    def exclusive() -> Change[int]:
        async def change(transaction: Transaction) -> Outcome[int]:
            nonlocal inside
            inside += 1
            assert inside == 1
            for _ in range(3):
                await asyncio.sleep(0)
            inside -= 1
            return Outcome(transaction.next_seq, [draft()])

        return change

    async def write(log: Log) -> list[int]:
        results = [(await log.append([Command(change=exclusive())]))[0] for _ in range(10)]
        assert all(isinstance(result, Committed) and result.value == result.last.seq for result in results)
        return [result.value for result in results if isinstance(result, Committed)]

    async with asyncio.timeout(20):
        values = await asyncio.gather(*(write(log) for log in logs))
    assert sorted(values[0] + values[1]) == list(range(1, 21))
