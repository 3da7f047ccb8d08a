"""What only the log in PostgreSQL can do, or get wrong."""

import asyncio
import random
from contextlib import aclosing, suppress
from typing import Any

import pytest

from shared.channel.channel import Channel
from shared.channel.log import Command, Committed, LogUnavailable, Outcome, Transaction
from shared.channel.postgres import log as log_module
from shared.channel.postgres import queries
from shared.protocol.filter import Filter, type_expression, type_pattern
from tests.contract.places import STEPS, PostgresPlace
from tests.support import memory_log
from tests.unit.protocol.sample import SCHEMA, draft

ALL = Filter(tenant=None)
PUT = "INSERT INTO runs.things VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET value = things.value + excluded.value"


def put(id: str, value: int, *, then: Exception | None = None) -> Command[None]:
    """Change a state row and tell of it; or refuse afterwards."""

    async def change(transaction: Transaction) -> Outcome[None]:
        await transaction.execute(PUT, id, value)
        if then is not None:
            raise then
        return Outcome(None, [draft("status", f"run/{id}")])

    return Command(change=change)


async def things(place: PostgresPlace) -> dict[str, int]:
    async with place._opened[0][1].connection() as connection:
        return {row["id"]: row["value"] for row in await connection.fetch("SELECT * FROM runs.things")}


async def types_stored(place: PostgresPlace) -> list[str]:
    page = await place._opened[0][0].read(ALL, 0, limit=10_000, max_bytes=10**9)
    return [record.subject for record in page.records]


def test_both_logs_look_at_as_many_rows_in_one_call() -> None:
    assert memory_log.SCAN_ROWS == queries.SCAN_ROWS


async def test_a_glob_means_the_same_in_postgresql_as_in_python(postgres: PostgresPlace) -> None:
    await postgres.open()
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    globs = [
        "",
        "*",
        "***",
        "a*",
        "*.b",
        "log",
        "a.b",
        "a|b",
        "(a)",
        "a+",
        "a\\",
        "a?",
        "^a",
        "a$",
        "[a]",
        "a{2}",
        "#a b",
    ]
    globs += ["".join(rng.choices("ab._*9", k=rng.randint(1, 7))) for _ in range(300)]
    names = ["", "a", "log", "a.b", "a\n", "\n", "A", "ä", "a b", "a-b", "aa", "node_update", "a|b", "(a)", "a\\"]
    names += ["".join(rng.choices("ab._9", k=rng.randint(1, 7))) for _ in range(200)]
    pairs = [(rng.sample(globs, rng.randint(1, 3)), rng.choice([*names, glob])) for glob in globs for _ in range(20)]
    async with postgres._opened[0][1].connection() as connection:
        rows = await connection.fetch(
            "SELECT name ~ expression AS found"
            " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS pair (name, expression, n) ORDER BY n",
            [name for _, name in pairs],
            [type_expression(chosen) for chosen, _ in pairs],
        )
    for (chosen, name), row in zip(pairs, rows, strict=True):
        assert row["found"] == (type_pattern(tuple(chosen)).fullmatch(name) is not None), (chosen, name)
    assert 0 < sum(row["found"] for row in rows) < len(rows)


# ── changes of state rows ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("refused", [[0], [1], [2], [0, 1, 2]])
async def test_what_a_refused_change_did_to_the_rows_is_undone(postgres: PostgresPlace, refused: list[int]) -> None:
    log = await postgres.open()
    commands = [put(f"{n}", n, then=ValueError("no") if n in refused else None) for n in range(3)]
    results = await log.append(commands)
    assert [n for n, result in enumerate(results) if isinstance(result, ValueError)] == refused
    kept = [n for n in range(3) if n not in refused]
    assert await things(postgres) == {f"{n}": n for n in kept}
    assert await types_stored(postgres) == [f"run/{n}" for n in kept]


async def test_a_refused_change_alone_is_undone(postgres: PostgresPlace) -> None:
    log = await postgres.open()
    (result,) = await log.append([put("a", 1, then=ValueError("no"))])
    assert isinstance(result, ValueError)
    assert await things(postgres) == {}


async def test_a_row_that_breaks_a_constraint_fails_its_command_alone(postgres: PostgresPlace) -> None:
    log = await postgres.open()
    results = await log.append([put("a", 1), put("b", -1), put("c", 3)])
    assert [isinstance(result, Committed) for result in results] == [True, False, True]
    assert not isinstance(results[1], LogUnavailable)
    assert await things(postgres) == {"a": 1, "c": 3}


async def test_a_change_that_hides_an_error_of_the_database_fails_alone(postgres: PostgresPlace) -> None:
    log = await postgres.open()

    async def change(transaction: Transaction) -> Outcome[None]:
        with suppress(Exception):
            await transaction.execute(PUT, "b", -1)
        return Outcome(None, [draft("status", "run/b")])

    results = await log.append([put("a", 1), Command(change=change), put("c", 3)])
    assert [isinstance(result, Committed) for result in results] == [True, False, True]
    assert await things(postgres) == {"a": 1, "c": 3}
    assert await types_stored(postgres) == ["run/a", "run/c"]


async def test_a_bad_row_beside_changes_leaves_each_change_applied_once(postgres: PostgresPlace) -> None:
    log = await postgres.open()
    results = await log.append([put("a", 1), Command([draft(tenant="\0")]), put("a", 1)])
    assert [isinstance(result, Committed) for result in results] == [True, False, True]
    assert await things(postgres) == {"a": 2}
    assert await types_stored(postgres) == ["run/a", "run/a"]


async def test_a_refusal_that_happens_to_be_an_os_error_takes_no_neighbour_with_it(postgres: PostgresPlace) -> None:
    log = await postgres.open()
    results = await log.append([put("a", 1), put("b", 2, then=PermissionError("not yours")), put("c", 3)])
    assert [isinstance(result, Committed) for result in results] == [True, False, True]
    assert isinstance(results[1], PermissionError)


@pytest.mark.parametrize("neighbours", [0, 2])
async def test_a_statement_that_gets_no_answer_in_time_is_the_databases_fault(
    postgres: PostgresPlace, neighbours: int
) -> None:
    async def change(tx: Any) -> Outcome[None]:
        await tx.execute("SELECT pg_sleep(30)", timeout=0.05)
        return Outcome(None)

    log = await postgres.open()
    with pytest.raises(LogUnavailable):
        await log.append([Command(change=change), *[put("a", 1)] * neighbours])
    assert await things(postgres) == {}
    (again,) = await log.append([put("a", 1)])
    assert isinstance(again, Committed)


async def test_what_a_group_leaves_because_it_took_too_long_comes_in_the_next_and_in_order(
    postgres: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await postgres.open()
    monkeypatch.setattr(log_module, "GROUP_SECONDS", -1.0)
    results = await log.append([put("a", 1), put("b", 1), Command([draft()])])
    assert [isinstance(result, Committed) for result in results] == [True]
    assert await things(postgres) == {"a": 1}
    channel = Channel(log, SCHEMA)
    await channel.start()
    async with asyncio.timeout(10):
        changes = [put(f"{n}", n, then=ValueError("no") if n == 3 else None).change for n in range(6)]
        done = await asyncio.gather(
            *(channel.execute(change) for change in changes if change is not None), return_exceptions=True
        )
    await channel.close()
    assert [type(result) for result in done] == [ValueError if n == 3 else Committed for n in range(6)]
    assert await types_stored(postgres) == ["run/a", *(f"run/{n}" for n in range(6) if n != 3)]


async def test_processes_that_change_the_same_rows_in_any_order_never_deadlock(postgres: PostgresPlace) -> None:
    logs = [await postgres.open() for _ in range(3)]

    async def write(number: int) -> int:
        rng, count = random.Random(number), 0
        for _ in range(20):
            ids = rng.sample("abcd", 3)
            group: list[Command[Any]] = [put(id, 1) for id in ids]
            group.insert(rng.randint(0, 3), rng.choice([Command([draft()]), put("a", 1, then=ValueError())]))
            results = await logs[number].append(group if rng.random() < 0.8 else [Command([draft()])])
            assert all(isinstance(result, Committed | ValueError) for result in results)
            count += sum(isinstance(r, Committed) and r.records[0].type == "status" for r in results)
        return count

    async with asyncio.timeout(20):
        counts = await asyncio.gather(*map(write, range(3)))
    assert sum((await things(postgres)).values()) == sum(counts)
    subjects = await types_stored(postgres)
    assert len([subject for subject in subjects if subject != "run/1"]) == sum(counts)
    assert (await logs[0].state()).head == len(subjects)


async def test_nobody_reads_past_a_transaction_that_is_under_way(postgres: PostgresPlace) -> None:
    slow, fast = await postgres.open(), await postgres.open()
    await fast.append([Command([draft(subject="run/0")])])
    began, finish = asyncio.Event(), asyncio.Event()

    async def change(transaction: Transaction) -> Outcome[None]:
        began.set()
        await finish.wait()
        return Outcome(None, [draft(subject="run/slow")])

    async with asyncio.timeout(10):
        first = asyncio.create_task(slow.append([Command(change=change)]))
        await began.wait()
        second = asyncio.create_task(fast.append([Command([draft(subject="run/fast")])]))
        await waiting_for_a_lock(postgres)
        page = await fast.read(ALL, 0, limit=10, max_bytes=1000)
        assert (len(page.records), page.scanned_to, page.state.head) == (1, 1, 1)
        state = await fast.trim(max_age_seconds=None, max_events=0)  # nor does trimming wait for it
        assert (state.head, state.oldest) == (1, 2)
        finish.set()
        await asyncio.gather(first, second)
    page = await fast.read(ALL, 1, limit=10, max_bytes=1000)
    assert [(r.seq, r.subject) for r in page.records] == [(2, "run/slow"), (3, "run/fast")]


async def waiting_for_a_lock(place: PostgresPlace) -> None:
    while True:
        async with place._opened[0][1].connection() as connection:
            if await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
                return


async def test_an_append_does_not_wait_for_trimming(postgres: PostgresPlace) -> None:
    log = await postgres.open()
    async with asyncio.timeout(10), postgres._opened[0][1].connection() as connection, connection.transaction():
        await connection.execute("UPDATE runs.retained SET oldest = oldest")
        await connection.execute("DELETE FROM runs.events")
        results = await log.append([Command([draft()]), put("a", 1)])
        assert all(isinstance(result, Committed) for result in results)


async def test_a_frozen_process_loses_the_counter_and_the_others_go_on(postgres: PostgresPlace) -> None:
    frozen, other = await postgres.open(), await postgres.open()
    began, thaw = asyncio.Event(), asyncio.Event()

    async def change(transaction: Transaction) -> Outcome[None]:
        began.set()
        await thaw.wait()
        return Outcome(None, [draft(subject="run/frozen")])

    async with asyncio.timeout(10):
        stuck = asyncio.create_task(frozen.append([Command(change=change)]))
        await began.wait()
        (result,) = await other.append([Command([draft(subject="run/other")])])  # in two seconds, not in four
        assert isinstance(result, Committed)
        thaw.set()
        with pytest.raises(LogUnavailable):
            await stuck
        (result,) = await frozen.append([Command([draft(subject="run/thawed")])])
        assert isinstance(result, Committed)
    assert await types_stored(postgres) == ["run/other", "run/thawed"]


# ── starting ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_many_can_start_at_once_on_an_empty_database(postgres: PostgresPlace) -> None:
    logs = [await postgres.make() for _ in range(5)]
    async with asyncio.timeout(20):
        states = await asyncio.gather(*(log.start() for log in logs))
    assert len(set(states)) == 1
    results = await asyncio.gather(*(log.append([put("a", 1)]) for log in logs))
    assert sorted(result.last.seq for (result,) in results if isinstance(result, Committed)) == [1, 2, 3, 4, 5]


async def test_a_newer_version_runs_only_the_steps_that_are_new(postgres: PostgresPlace) -> None:
    old = await postgres.open()
    await old.append([put("a", 1)])
    newer = await postgres.make([*STEPS, "ALTER TABLE {s}.things ADD COLUMN colour text DEFAULT 'red'"])
    for _ in range(2):
        assert (await newer.start()).head == 1
    assert await things(postgres) == {"a": 1}
    assert isinstance((await old.append([put("a", 1)]))[0], Committed)  # the old version goes on beside it


async def test_the_epoch_survives_a_restart(postgres: PostgresPlace) -> None:
    log = await postgres.open()
    await log.append([Command([draft()])])
    before = await log.state()
    await postgres.shut(log)
    log = await postgres.open()
    assert await log.state() == before
    assert (await log.start()) == before


@pytest.mark.parametrize("column", ["system_identifier", "timeline"])
async def test_a_restore_into_another_cluster_is_a_new_epoch_and_the_same_for_all(
    postgres: PostgresPlace, column: str
) -> None:
    log = await postgres.open()
    await log.append([Command([draft()])])
    before = await log.state()
    await postgres.execute(f"UPDATE runs.log SET {column} = {column} + 1")
    logs = [await postgres.make() for _ in range(4)]
    states = await asyncio.gather(*(each.start() for each in logs))
    assert len({state.epoch for state in states}) == 1
    assert states[0].epoch != before.epoch
    assert (states[0].head, states[0].oldest) == (1, 1)
    assert await log.state() == states[0]


# ── connections that are lost ──────────────────────────────────────────────────────────────────────────────────────

KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def test_the_news_go_on_after_the_listening_connection_was_lost(postgres: PostgresPlace) -> None:
    log, other = await postgres.open(), await postgres.open()
    async with asyncio.timeout(20), aclosing(log.heads()) as heads:  # type: ignore[type-var]  # a generator
        state = await anext(heads)
        await postgres.execute(KILL + " AND application_name = 'tailrace listener'")
        await other.append([Command([draft()])])
        while state.head < 1:
            state = await anext(heads)
        assert log.listening


async def test_appending_goes_on_after_the_writing_connection_was_lost(postgres: PostgresPlace) -> None:
    log = await postgres.open()
    for turn in range(3):
        await log.append([put("a", 1)])
        await postgres.execute(KILL + " AND application_name = 'tailrace appender'")
        with suppress(LogUnavailable):  # it may notice, and then nothing of it was stored
            await log.append([put("b", 1)])
        assert (await things(postgres))["a"] == turn + 1
    assert isinstance((await log.append([put("a", 1)]))[0], Committed)


async def test_a_writer_that_is_cut_off_in_the_middle_stores_nothing(postgres: PostgresPlace) -> None:
    log = await postgres.open()

    async def change(transaction: Transaction) -> Outcome[None]:
        await transaction.execute(PUT, "a", 1)
        await postgres.execute(KILL + " AND application_name = 'tailrace appender'")
        return Outcome(None, [draft()])

    with pytest.raises(LogUnavailable):
        await log.append([Command([draft()]), Command(change=change)])
    assert await things(postgres) == {}
    assert (await log.state()).head == 0
    assert isinstance((await log.append([put("a", 1)]))[0], Committed)


async def test_an_append_that_is_cancelled_leaves_the_next_one_whole(postgres: PostgresPlace) -> None:
    log = await postgres.open()
    began = asyncio.Event()

    async def change(transaction: Transaction) -> Outcome[None]:
        await transaction.execute(PUT, "a", 1)
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(log.append([Command(change=change)]))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        (result,) = await log.append([put("b", 1)])
    assert isinstance(result, Committed)
    assert result.last.seq == 1
    assert await things(postgres) == {"b": 1}


async def test_the_news_outlive_a_restore_of_the_tables(postgres: PostgresPlace) -> None:
    # pg_restore --clean takes the tables away for a while; the process is to go on by itself afterwards
    log, other = await postgres.open(), await postgres.open()
    async with asyncio.timeout(20), aclosing(log.heads()) as heads:  # type: ignore[type-var]  # a generator
        await anext(heads)
        await postgres.execute("ALTER SCHEMA runs RENAME TO away")
        await postgres.execute("SELECT pg_notify('tailrace_runs', '')")
        news = asyncio.ensure_future(anext(heads))
        while log.listening and not news.done():  # noqa: ASYNC110  it happens in the database
            await asyncio.sleep(0.005)
        await postgres.execute("ALTER SCHEMA away RENAME TO runs")
        await other.append([Command([draft()])])
        while (await news).head < 1:
            news = asyncio.ensure_future(anext(heads))


async def test_while_the_tables_are_away_the_log_is_unavailable(postgres: PostgresPlace) -> None:
    log = await postgres.open()
    await log.append([Command([draft()])])
    await postgres.execute("ALTER SCHEMA runs RENAME TO away")
    with pytest.raises(LogUnavailable):
        await log.read(ALL, 0, limit=1, max_bytes=1)
    with pytest.raises(LogUnavailable):
        await log.state()
    with pytest.raises(LogUnavailable):
        await log.append([Command([draft()])])
    await postgres.execute("ALTER SCHEMA away RENAME TO runs")
    assert isinstance((await log.append([Command([draft()])]))[0], Committed)
