"""Readers that are cut off hundreds of times, and requests that fail beside others: nothing is lost or repeated."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from msgspec import Struct

from tests.support.contract import NO_SUCH_RUN, RUNS, finish, sql
from tests.support.readers import (
    TRANSPORTS,
    Load,
    Reader,
    Stored,
    Stream,
    Writer,
    eventually,
    log_of,
    patient_client,
    seeded,
)
from tests.support.server import append, lease, running

EVENTS = 70  # of each writer, at least
SAMPLE_WORDS = 20


# ── cuts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def streams_of(runs: Sequence[str]) -> list[Stream]:
    """The kinds of stream there are, with and without types."""
    return [
        Stream(),
        Stream(types="status"),
        Stream(types="node_*"),
        Stream(tuple(runs[:2])),
        Stream(tuple(runs), types="error,status"),
        Stream((runs[0],)),
        Stream((runs[0],), alone=True),
        Stream((runs[1],), types="node_update", alone=True),
    ]


@pytest.mark.parametrize("tail_bytes", [0, 30_000, 64 * 1024 * 1024])
async def test_readers_cut_at_any_moment_get_each_event_once_and_in_order(database_url: str, tail_bytes: int) -> None:
    chance = seeded("endurance")
    settings = {"tail_bytes": tail_bytes, "heartbeat_seconds": 0.05}
    async with running(database_url, **settings) as server, patient_client() as client:
        writers = [Writer(client, [server.url], f"writer-{n}", chance, pause_seconds=0.12) for n in range(3)]
        for writer in writers:
            await writer.begin()
        sample = await start_sample(client, server.url)
        streams = streams_of([*(writer.run_id for writer in writers), sample])
        readers = [
            Reader(client, [server.url], stream, transport, chance, cut_every=cut_every)
            for stream, transport, cut_every in zip(
                [*streams, *streams], itertools.cycle(TRANSPORTS), itertools.cycle([5, 15, 50]), strict=False
            )
        ]
        load = Load(writers, readers)
        async with load.running(database_url, events=EVENTS):
            await eventually(lambda: load.cuts >= 100, "100 cuts")
            await finished(client, server.url, sample)
        check_sample(await log_of(database_url), sample)
    assert all(reader.faults.keys() <= {"ConnectionClosedError"} for reader in readers), readers
    assert load.answers.keys() == {"200"}


async def start_sample(client: httpx.AsyncClient, base: str) -> str:
    body = {"task": "Say something", "params": {"step_seconds": 0.02, "words": SAMPLE_WORDS}}
    created = await client.post(f"{base}{RUNS}", json=body)
    return str(created.raise_for_status().json()["id"])


async def finished(client: httpx.AsyncClient, base: str, run_id: str) -> None:
    async def is_over() -> bool:
        return bool((await client.get(f"{base}{RUNS}/{run_id}")).json()["status"] == "completed")

    await eventually(is_over, "the sample runner finishes")


def check_sample(log: Sequence[Stored], run_id: str) -> None:
    own = [each for each in log if each.run_id == run_id]
    assert [each.type for each in own] == ["status", "status", *["node_update"] * (SAMPLE_WORDS + 2), "status"]
    words = [each.event["iteration"] for each in own if each.event.get("node") == "writer"]
    assert words == list(range(1, SAMPLE_WORDS + 1))


async def test_readers_that_were_idle_are_not_passed_over_by_a_heartbeat(database_url: str) -> None:
    chance = seeded("idle")
    # The more readers there are, the longer the fan-out takes, and the likelier is a heartbeat in its middle.
    async with running(database_url, heartbeat_seconds=0.05) as server, patient_client() as client:
        writer = Writer(client, [server.url], "writer", chance, pause_seconds=0.15)
        await writer.begin()
        readers = [Reader(client, [server.url], Stream(), TRANSPORTS[n % 2], chance) for n in range(140)]
        async with Load([writer], readers).running(database_url, events=EVENTS):
            pass
    assert {reader.connections for reader in readers} == {1}


# ── failing alone ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_requests_that_are_refused_in_a_group_fail_alone(database_url: str) -> None:
    chance = seeded("groups")
    async with (
        running(database_url) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=None)) as client,
    ):
        over, over_token = await lease(client, runner="over")
        (await append(client, over, over_token, 1)).raise_for_status()
        (await finish(client, over, over_token)).raise_for_status()
        runs = [await lease(client, runner=f"worker-{n}") for n in range(6)]
        before = len(await log_of(database_url))
        good = [Request(run_id, token, "events", batch(n), 200) for n in range(120) for run_id, token in [runs[n % 6]]]
        bad = [refused(chance, runs, over, over_token) for _ in range(60)]
        requests = chance.sample([*good, *bad], 180)
        answers = await at_once(client, database_url, requests)
        log = await log_of(database_url)
        async with sql(database_url) as database:
            producers = {row["producer"] for row in await database.fetch("SELECT producer FROM runs.producers")}
            rows = await database.fetch("SELECT id, last_seq FROM runs.runs")
    wrong = [(r.kind, a.text) for r, a in zip(requests, answers, strict=True) if a.status_code != r.status]
    assert wrong == []
    assert Counter(each.event["node"] for each in log[before:]) == Counter(
        event["node"] for request in good for event in request.body["events"]
    )
    # nor has a refused one left its mark on the rows
    assert producers == {request.body["producer"] for request in good}
    assert {row["id"]: row["last_seq"] for row in rows} == {each.run_id: each.seq for each in log}


class Request(Struct, frozen=True, eq=False):
    """One request of a worker, and the status it is to be answered with. `kind` tells them apart in a report."""

    run_id: str
    token: str
    what: str
    body: dict[str, Any]
    status: int
    kind: str = "good"

    async def send(self, client: httpx.AsyncClient, sent: "set[Request]") -> httpx.Response:
        """Again while it is answered 503: a busy machine may hold the counter beyond the lock timeout."""

        async def trace(event: str, _: object) -> None:
            if event == "http11.send_request_body.complete":
                sent.add(self)

        path, headers = f"{RUNS}/{self.run_id}/{self.what}", {"tailrace-lease": self.token}
        while True:
            answer = await client.post(path, json=self.body, headers=headers, extensions={"trace": trace})
            if answer.status_code != 503:
                return answer


def batch(number: int, **more: Any) -> dict[str, Any]:
    events = [{"type": "node_update", "node": f"{number}.{n}", **more} for n in range(1 + number % 3)]
    return {"producer": f"producer-{number}", "producer_seq": 1, "events": events}


def refused(chance: random.Random, runs: Sequence[tuple[str, str]], over: str, over_token: str) -> Request:
    """A request that must store nothing."""
    number = chance.randrange(10**6, 10**9)
    run_id, token = chance.choice(runs)
    return chance.choice(
        [
            Request(over, over_token, "finish", {"status": "failed"}, 409, "another end"),
            Request(over, over_token, "events", batch(number), 409, "after the end"),
            Request(run_id, "not-this-one", "events", batch(number), 403, "wrong lease"),
            Request(run_id, "not-this-one", "finish", {"status": "completed"}, 403, "wrong lease, finish"),
            Request(run_id, token, "events", batch(number, unknown=1), 400, "unknown field"),
            Request(run_id, token, "events", {**batch(number), "unknown": 1}, 400, "unknown field, body"),
            Request(run_id, token, "events", batch(number, worker_id="a\0b"), 400, "NUL in a column"),
            Request(run_id, token, "finish", {"status": "failed", "error": "a\0b"}, 400, "NUL in an error"),
            Request(run_id, token, "events", batch(number, agent="x" * 300_000), 413, "oversized"),
            Request(run_id, token, "events", {**batch(number), "producer_seq": 7}, 409, "hole"),
            Request(NO_SUCH_RUN, token, "events", batch(number), 404, "no run"),
        ]
    )


async def at_once(
    client: httpx.AsyncClient, database_url: str, requests: Sequence[Request]
) -> Sequence[httpx.Response]:
    """Send them all while the log's counter is held, so that they are stored in few groups; their answers in order."""
    async with sql(database_url) as database:
        async with database.transaction():
            await database.execute("SELECT FROM runs.log FOR UPDATE")
            sent: set[Request] = set()
            sending = [asyncio.create_task(request.send(client, sent)) for request in requests]
            stuck = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"
            pid = database.get_server_pid()

            async def is_waiting() -> bool:
                return bool(await database.fetchval(stuck, pid))

            await eventually(is_waiting, "the appender waits for the counter")
            await eventually(lambda: len(sent) == len(requests), "all are sent")
            await client.get("/health")  # answered after what came before it
        return await asyncio.gather(*sending)
