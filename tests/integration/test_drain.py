"""SIGTERM and Ctrl-C: everybody is told, nothing that was accepted is lost, and the process is gone. DESIGN.md 9."""

import asyncio
import signal
import time

import httpx
import pytest

from tests.integration.test_slow_readers import lazy_reader, publish
from tests.support.contract import (
    ANSWER_SECONDS,
    RUNS,
    Served,
    events_of,
    finish,
    problem_of,
    read_until,
    read_until_live,
    socket,
    sql,
    stored,
    types_of,
)
from tests.support.server import Server, append, lease, running, sse

EXIT_SECONDS = 5.0
NUMBERS = [signal.SIGTERM, signal.SIGINT]


async def end_in_time(server: Server, number: int = signal.SIGTERM) -> None:
    """The signal; exit code 0 within the time that is promised."""
    began = time.monotonic()
    async with asyncio.timeout(ANSWER_SECONDS):
        assert await server.end(number) == 0, "".join(server.output)
    assert time.monotonic() - began < EXIT_SECONDS


async def test_a_client_that_closes_as_soon_as_it_is_told_is_no_trouble(database_url: str) -> None:
    """Its close and ours cross; browsers do so, and the process must come to its end all the same."""

    async def leave_when_told(base: str, ready: asyncio.Event) -> None:
        async with socket(f"{base}{RUNS}/ws") as shared:
            await shared.send({"op": "follow", "ref": "a", "channel": "runs"})
            await shared.until_type("live", "a")
            ready.set()
            await shared.until_type("stream_end", "a")

    async with running(database_url) as server:
        base = server.url.replace("http", "ws", 1)
        arrived = [asyncio.Event() for _ in range(8)]
        clients = [asyncio.create_task(leave_when_told(base, event)) for event in arrived]
        for event in arrived:
            await event.wait()
        await end_in_time(server)
        await asyncio.gather(*clients)


async def test_a_request_that_is_not_answered_in_time_is_told_to_come_back(database_url: str) -> None:
    async with (
        running(database_url) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        sql(database_url) as database,
    ):
        run_id, token = await lease(client)
        async with database.transaction():
            await database.execute("SELECT FROM runs.log FOR UPDATE")  # nothing can be stored
            asking = asyncio.create_task(append(client, run_id, token))
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            async with asyncio.timeout(ANSWER_SECONDS):
                while await database.fetchval(waiting) == 0:
                    pass
            ending = asyncio.create_task(server.end())
            answer = await asking
        assert await ending == 0
        assert "shutting down" in problem_of(answer, 503)["detail"]
        assert answer.headers["retry-after"] == "1"
        assert "Traceback" not in "".join(server.output)


@pytest.mark.parametrize("number", NUMBERS)
async def test_every_stream_is_told_to_come_back_and_loses_nothing(database_url: str, number: int) -> None:
    async with running(database_url, retry_milliseconds=1000) as server:
        base = server.url.replace("http", "ws", 1)
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            run_id, token = await lease(client)
            url = f"{RUNS}/{run_id}/stream"
            async with (
                sse(client, url) as one,
                sse(client, f"{RUNS}/stream") as feed,
                socket(base + url) as single,
                socket(base + url, subprotocol="tailrace.v1.msgpack") as packed,
                socket(f"{base}{RUNS}/ws") as shared,
            ):
                for stream in (one, feed):
                    await read_until_live(stream)
                for opened in (single, packed):
                    await opened.until_type("live")
                for ref in "ab":
                    await shared.send({"op": "follow", "ref": ref, "channel": f"run/{run_id}"})
                    await shared.until_type("live", ref)
                (await append(client, run_id, token, 3)).raise_for_status()
                ending = asyncio.create_task(end_in_time(server, number))
                ends = [
                    await read_until(one, lambda frame: frame.type == "stream_end"),
                    await read_until(feed, lambda frame: frame.type == "stream_end"),
                    await single.until_type("stream_end"),
                    await packed.until_type("stream_end"),
                ]
                for frames in ends:
                    assert types_of(frames) == ["node_update"] * 3 + ["stream_end"]
                both = await shared.until(lambda frame: frame.type == "stream_end")
                both += await shared.until(lambda frame: frame.type == "stream_end")
                assert {frame.ref for frame in both if frame.type == "stream_end"} == {"a", "b"}
                retries = set()
                for end in [frames[-1] for frames in ends] + [f for f in both if f.type == "stream_end"]:
                    assert (end.event["reason"], end.event["final"], end.event["status"]) == (
                        "server_shutdown",
                        False,
                        None,
                    )
                    assert end.event["last_id"] == stored(ends[0])[-1].id
                    retries.add(end.event["retry_after_ms"])
                assert all(500 <= retry <= 1_500 for retry in retries)
                assert len(retries) > 1  # or they would all come back at once
                with pytest.raises(StopAsyncIteration):
                    await anext(one)  # the body ended properly
                assert [await opened.close_code() for opened in (single, packed, shared)] == [1012] * 3
                await ending
        await server.start()
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=30) as client,
            sse(client, url, headers={"last-event-id": str(ends[0][-1].event["last_id"])}) as stream,
        ):
            await finish(client, run_id, token)
            again = await read_until(stream, lambda frame: frame.type == "stream_end")
            assert types_of(stored(again)) == ["status"]
            assert again[0].event["resumed"] is True


async def test_neither_idle_connections_nor_frozen_readers_nor_long_polls_hold_it_up(
    database_url: str,
) -> None:
    async with running(database_url) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        served = Served(server, database_url)
        run_id, token = await lease(client)
        await publish(client, run_id, token, 5)
        idle = httpx.AsyncClient(base_url=server.url)
        await idle.get("/health")  # its connection is kept alive
        last = (await client.get(f"{RUNS}/{run_id}")).json()["last_position"]
        upgrade = {
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "x" * 22 + "==",
        }
        async with (
            lazy_reader(served, f"{RUNS}/{run_id}/stream") as frozen,
            lazy_reader(served, f"{RUNS}/{run_id}/stream", upgrade) as frozen_socket,
            sse(client, f"{RUNS}/{run_id}/stream?after=now") as healthy,
        ):
            await read_until_live(healthy)
            await frozen.stall(client)
            await frozen_socket.stall(client)
            polls = [
                asyncio.create_task(client.get(f"{RUNS}/{run_id}/events?after={last}&wait=60")),
                asyncio.create_task(client.post(f"{RUNS}/lease", json={"runners": ["none"], "wait_seconds": 60})),
            ]
            await client.get("/health")
            ending = asyncio.create_task(end_in_time(server))
            told = await read_until(healthy, lambda frame: frame.type == "stream_end")
            assert told[-1].event["reason"] == "server_shutdown"
            await ending
            await asyncio.wait(polls)
            for poll in polls:  # answered, or cut: not left hanging
                assert poll.exception() is None or isinstance(poll.exception(), httpx.TransportError)
        await idle.aclose()


async def test_while_it_drains_it_is_not_ready_and_takes_no_streams(database_url: str) -> None:
    async with running(database_url) as server:
        served = Served(server, database_url)
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            assert (await client.get("/ready")).status_code == 200
            run_id, token = await lease(client)
            await publish(client, run_id, token, 5)
            async with lazy_reader(served, f"{RUNS}/{run_id}/stream") as reader:  # keeps it draining for a while
                await reader.stall(client)
                ending = asyncio.create_task(end_in_time(server))
                async with asyncio.timeout(ANSWER_SECONDS):
                    while (ready := await client.get("/ready")).status_code == 200:  # over the same connection
                        pass
                assert ready.status_code == 503
                assert "draining" in ready.json()["checks"]
                refused = await client.get(f"{RUNS}/{run_id}/stream")
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) > 0
                await ending


async def test_what_was_accepted_is_stored(database_url: str) -> None:
    acknowledged: dict[str, int] = {}
    async with running(database_url) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            runs = [await lease(client, runner=f"r{number}") for number in range(5)]
            under_way = asyncio.Event()

            async def work(run_id: str, token: str) -> None:
                seq = 1
                while True:
                    events = [{"type": "node_update", "node": "n", "iteration": seq}]
                    body = {"events": events, "producer": "p", "producer_seq": seq}
                    try:
                        answer = await client.post(
                            f"{RUNS}/{run_id}/events", json=body, headers={"tailrace-lease": token}
                        )
                    except httpx.TransportError:
                        return
                    if answer.status_code != 200:
                        assert answer.status_code == 503
                        return
                    acknowledged[run_id] = seq
                    seq += 1
                    if seq > 20:
                        under_way.set()

            async with asyncio.TaskGroup() as group:
                for run_id, token in runs:
                    group.create_task(work(run_id, token))
                await under_way.wait()
                await end_in_time(server)
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            for run_id, _ in runs:
                kept = [f.event["iteration"] for f in await events_of(client, run_id, types="node_update")]
                assert kept == list(range(1, len(kept) + 1))
                assert acknowledged[run_id] <= len(kept) <= acknowledged[run_id] + 1  # one was under way


@pytest.mark.parametrize("number", NUMBERS)
async def test_inline_runs_give_back_their_lease_and_the_next_process_takes_them(
    database_url: str, number: int
) -> None:
    async with running(database_url) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            body = {"task": "t", "params": {"step_seconds": 0.2, "words": 3}}
            run_id = (await client.post(RUNS, json=body)).raise_for_status().json()["id"]
            async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
                await read_until(stream, lambda frame: frame.type == "node_update")
                await end_in_time(server, number)
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            async with sse(client, f"{RUNS}/{run_id}/stream") as stream:
                seen = await read_until(stream, lambda frame: frame.type == "stream_end")
            statuses = [frame.event for frame in seen if frame.type == "status"]
            assert [status["status"] for status in statuses] == [
                "queued",
                "running",
                "queued",
                "running",
                "completed",
            ]
            assert {status["attempt"] for status in statuses} == {1}  # not the worker's fault
            assert "error" not in types_of(seen)
            assert statuses[1]["worker"] != statuses[3]["worker"]


async def test_a_queued_run_leased_elsewhere_stays_with_its_worker_over_a_restart(database_url: str) -> None:
    async with running(database_url) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            run_id, token = await lease(client)
            await end_in_time(server)
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            (await append(client, run_id, token)).raise_for_status()
            (await finish(client, run_id, token)).raise_for_status()
            assert len(await events_of(client, run_id)) == 4


async def test_a_cancelled_inline_run_that_meets_the_shutdown_ends_cancelled(database_url: str) -> None:
    async with running(database_url) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            body = {"task": "t", "params": {"step_seconds": 60}}
            run_id = (await client.post(RUNS, json=body)).raise_for_status().json()["id"]
            cancelling = asyncio.create_task(client.post(f"{RUNS}/{run_id}/cancel"))
            (await cancelling).raise_for_status()
            await end_in_time(server)
        await server.start()
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=30) as client,
            sse(client, f"{RUNS}/{run_id}/stream") as stream,
        ):
            seen = await read_until(stream, lambda frame: frame.type == "stream_end")
            assert seen[-1].event["status"] == "cancelled"


async def test_a_second_signal_is_no_harm(database_url: str) -> None:
    async with (
        running(database_url) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
        sse(client, f"{RUNS}/stream") as stream,
    ):
        await read_until_live(stream)
        ending = asyncio.create_task(end_in_time(server))
        await read_until(stream, lambda frame: frame.type == "stream_end")
        await end_in_time(server)
        await ending
