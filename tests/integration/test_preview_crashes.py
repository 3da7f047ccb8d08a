"""Previews when the service is killed or told to leave, and when its database is away."""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.contract import sql
from tests.support.postgres import OwnPostgres
from tests.support.previews import (
    LITESTAR,
    PREVIEWS,
    SERVE,
    ended,
    event_of,
    events_of,
    get,
    is_line,
    is_live,
    launch,
    new_generation,
    nothing_is_left,
    preview_url,
    printed,
    processes_of,
    reached,
    read_to_end,
    restart,
    running,
    sse,
    statuses,
    stop,
    stored_logs,
    tell,
)
from tests.support.readers import eventually
from tests.support.server import Server
from tests.support.server import running as server_running

STUBBORN = SERVE.replace("status =", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nstatus =")
HIDDEN = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"


def client_of(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=30)


# ── the service ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_after_a_kill_the_next_start_ends_what_was_left_and_says_that_it_was_lost(database_url: str) -> None:
    async with server_running(database_url) as server, client_of(server) as client:
        generations = [new_generation("lost") for _ in range(3)]
        previews = [await running(client, generation) for generation in generations]
        await tell(client, generations[0], HIDDEN)
        await tell(client, generations[1], "print('last words', flush=True)")
        async with sse(client, generations[1], after="start") as stream:
            position = (await stream.until(is_line("last words")))[-1].id
        young = new_generation("lost")
        previews.append(await launch(client, young))  # it is being prepared
        over = new_generation("over")
        await running(client, over)
        await stop(client, over)
        await server.kill()
        await server.start()
        ids = [preview["id"] for preview in previews]
        assert not any(processes_of(preview_id) for preview_id in ids)
        await nothing_is_left(server, *ids)
        for generation in (*generations, young):
            preview = await get(client, generation)
            assert (preview["status"], preview["attempt"]) == ("lost", 1), preview
            assert "service was gone" in preview["message"]
            assert preview["stopped_at"]
        assert (await get(client, over))["status"] == "stopped"
        seen = await read_to_end(client, generations[1], headers={"last-event-id": position})
        assert statuses(seen) == ["lost"]
        assert event_of(seen[-1])["status"] == "lost"
        await restart(client, generations[1])
        await reached(client, generations[1], "running", attempt=2)
        await stop(client, generations[1])
        lines = [event["line"] for event in await stored_logs(client, generations[1])]
        assert lines == list(range(1, len(lines) + 1))


async def test_a_reader_that_was_cut_off_by_the_kill_learns_that_the_preview_was_lost(database_url: str) -> None:
    async with server_running(database_url) as server, client_of(server) as client:
        generation = new_generation()
        await running(client, generation)
        async with sse(client, generation) as stream:
            last = (await stream.until(is_live))[-1].id
            await server.kill()
        await server.start()
        seen = await read_to_end(client, generation, headers={"last-event-id": last})
        assert statuses(seen) == ["lost"]


async def test_where_the_path_is_too_long_for_a_socket_all_goes_as_well(database_url: str, tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 90)  # and nobody else may pass through what is above it
    async with server_running(database_url, data_directory=directory) as server, client_of(server) as client:
        sockets = Path(tempfile.gettempdir()) / f"tailrace-{(directory / 'previews' / 'host').read_text()}"
        try:
            generation = new_generation()
            preview = await running(client, generation)
            assert (await client.get(f"{preview_url(generation)}/app/")).status_code == 200
            assert [place.name for place in sockets.iterdir()] == [preview["id"].replace("_", "-")]
            await server.kill()
            await server.start()
            assert (await get(client, generation))["status"] == "lost"
            assert list(sockets.iterdir()) == []
            await nothing_is_left(server, preview["id"])
        finally:
            shutil.rmtree(sockets)


async def test_sigterm_stops_all_programs_in_time_also_one_that_will_not_go(database_url: str) -> None:
    async with server_running(database_url) as server, client_of(server) as client:
        codes = {
            "serves": SERVE,
            "stubborn": STUBBORN,
            "hides": SERVE,
            "prints": SERVE.replace(
                "status =",
                "threading.Thread(target=lambda: [print(n) for n in range(10**9)], daemon=True).start()\nstatus =",
            ),
            "slow": SERVE.replace(
                "status =",
                "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), os._exit(0)))\nstatus =",
            ),
        }
        generations = {what: new_generation(what) for what in codes}
        previews = {what: await running(client, generations[what], code) for what, code in codes.items()}
        await tell(client, generations["hides"], HIDDEN)
        ids = [preview["id"] for preview in previews.values()]
        async with sse(client, generations["slow"]) as stream:
            await stream.until(is_live)
            began = time.monotonic()
            assert await server.end() == 0
            assert time.monotonic() - began < 5
            end = event_of((await stream.rest())[-1])
        assert (end["type"], end["reason"], end["final"]) == ("stream_end", "server_shutdown", False)
        assert not any(processes_of(preview_id) for preview_id in ids)
        await nothing_is_left(server, *ids)
        assert " ERROR " not in "".join(server.output)
        await server.start()
        for what, generation in generations.items():
            preview = await get(client, generation)
            assert preview["status"] == "stopped", (what, preview)
            assert preview["message"] == "stopped: the service is shutting down"
            signal = {"stubborn": "SIGKILL", "slow": None}.get(what, "SIGTERM")
            assert preview["exit"] == {"code": None if signal else 0, "signal": signal}, what
        assert "bye" in printed(await stored_logs(client, generations["slow"]))
        lines = [int(line) for line in printed(await stored_logs(client, generations["prints"])) if line.isdigit()]
        assert lines == sorted(set(lines))


async def test_sigterm_while_programs_are_being_prepared(database_url: str) -> None:
    async with server_running(database_url) as server, client_of(server) as client:
        generations = [new_generation() for _ in range(3)]
        previews = [await launch(client, generation) for generation in generations]
        assert await server.end() == 0
        await nothing_is_left(server, *(preview["id"] for preview in previews))
        await server.start()
        assert {(await get(client, generation))["status"] for generation in generations} <= {"stopped", "lost"}


async def test_nothing_is_launched_while_the_service_leaves(database_url: str) -> None:
    async with server_running(database_url) as server, client_of(server) as client:
        stubborn = new_generation()
        await running(client, stubborn, STUBBORN)
        leaving = asyncio.create_task(server.end())
        made = []
        while not leaving.done():
            try:
                generation = new_generation()
                answer = await client.post(
                    preview_url(generation), json={"files": {}, "kind": "command", "command": ["sleep", "600"]}
                )
            except httpx.TransportError:
                break
            if answer.status_code == 202:
                made.append((generation, answer.json()["id"]))
        assert await leaving == 0
        await nothing_is_left(server, *(preview_id for _, preview_id in made))
        await server.start()
        for generation, _ in made:
            assert (await get(client, generation))["status"] in ("stopped", "lost")


# ── the database ───────────────────────────────────────────────────────────────────────────────────────────────

PRINT = """\
import os, sys, time
for n in range({count}):
    print("line", n)
    if n % 100 == 0: time.sleep({pause})
print("Traceback (most recent call last):", file=sys.stderr)
print("ValueError: the end", file=sys.stderr)
os._exit(3)
"""


def counted(events: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What is stored of the program's own lines, and how many are said to have been dropped; numbers have no hole."""
    lines = [event["line"] for event in events if not event["partial"]]
    assert sorted(set(lines)) == list(range(1, max(lines) + 1))
    assert lines == sorted(lines)
    return printed(events), sum(event.get("dropped") or 0 for event in events)


async def test_a_program_goes_on_while_the_database_is_away_and_all_it_did_is_told_afterwards(
    own_postgres: OwnPostgres,
) -> None:
    postgres = own_postgres()
    url = await postgres.start()
    async with server_running(url) as server, client_of(server) as client:
        generation, other, young = (new_generation() for _ in range(3))
        preview = await running(client, generation)
        await running(client, other)
        late = "threading.Thread(target=lambda: ([(print('line', n, flush=True), time.sleep(0.001)) for n in"
        late += " range(1500)], print('ValueError: the end', file=sys.stderr), os._exit(3))).start()"
        await launch(client, young, "import time; print('not ready'); time.sleep(2)\n" + SERVE)
        await tell(client, generation, late)
        await postgres.stop()
        assert (await client.get(preview_url(generation))).status_code == 503
        assert (
            await client.post(preview_url(new_generation()), json={"files": {}, "kind": "command", "command": ["true"]})
        ).status_code == 503
        await eventually(lambda: len(processes_of(preview["id"])) == 0, "the program has ended meanwhile")
        await postgres.start()

        async def is_back() -> bool:
            return (await client.get("/ready")).status_code == 200

        await eventually(is_back, "the database is back")
        shown = await ended(client, generation)
        assert (shown["status"], shown["exit"]) == ("exited", {"code": 3, "signal": None})
        assert "ValueError: the end" in shown["tail"]
        lines, dropped = counted(await stored_logs(client, generation))
        assert dropped == 0
        assert [line for line in lines if line.startswith("line")] == [f"line {n}" for n in range(1500)]
        seen = await read_to_end(client, generation, after="start")
        assert statuses(seen) == ["preparing", "starting", "running", "exited"]
        await reached(client, young, "running")
        assert await tell(client, other, "answer = 'well'") == "well"
        for each in (other, young):
            await stop(client, each)
        told = events_of(await read_to_end(client, young, after="start"), "preview_status", "ready")
        names = [event.get("status", "ready") for event in told]
        assert names == ["preparing", "starting", "running", "ready", "stopping", "stopped"]


async def test_each_line_is_stored_once_however_often_the_connection_to_the_database_breaks(
    database_url: str,
) -> None:
    async with server_running(database_url) as server, client_of(server) as client, sql(database_url) as database:
        generation = new_generation()
        await launch(client, generation, PRINT.format(count=30_000, pause=0.005))
        breaks = known = 0

        async def is_over() -> bool:
            nonlocal breaks, known
            head = await database.fetchval("SELECT head FROM previews.log")
            if head > known:
                known = head
                breaks += await database.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'tailrace appender'"
                )
            try:
                return bool((await client.get(preview_url(generation))).json().get("status") == "failed")
            except httpx.TransportError:
                return False

        await eventually(is_over, "it has ended")
        assert breaks > 5
        lines, dropped = counted(await stored_logs(client, generation))
        assert dropped == 0
        assert [line for line in lines if line.startswith("line")] == [f"line {n}" for n in range(30_000)]
        assert lines.count("ValueError: the end") == 1
        assert statuses(await read_to_end(client, generation, after="start")) == ["preparing", "starting", "failed"]


async def test_what_cannot_be_kept_while_the_database_is_away_is_counted(own_postgres: OwnPostgres) -> None:
    postgres = own_postgres()
    url = await postgres.start()
    async with server_running(url) as server, client_of(server) as client:
        generation = new_generation()
        preview = await running(client, generation)
        count = 200_000  # far more than the buffer holds
        await tell(
            client,
            generation,
            f"threading.Thread(target=lambda: ([print('line', n, 'x' * 80) for n in range({count})],"
            " print('the end'), os._exit(0))).start(); time.sleep(0.2)",
        )
        await postgres.stop()
        await eventually(lambda: len(processes_of(preview["id"])) == 0, "the program has ended meanwhile")
        await postgres.start()
        preview = await ended(client, generation)
        assert preview["status"] == "exited"
        lines, dropped = counted(await stored_logs(client, generation))
        numbers = [int(line.split()[1]) for line in lines if line.startswith("line")]
        assert dropped > 0
        assert len(numbers) + dropped == count
        assert numbers == sorted(set(numbers))
        assert "the end" in lines[-2:]
        assert "line 199999 " + "x" * 80 in lines  # what goes is the oldest


async def test_a_launch_whose_answer_was_lost_can_be_stopped_and_replaced(database_url: str) -> None:
    """It was stored, and nobody here knows of it: as when the connection breaks at the commit."""
    async with server_running(database_url) as server, client_of(server) as client, sql(database_url) as database:
        generations = [new_generation() for _ in range(2)]
        for generation in generations:
            await running(client, generation, files={"main.py": LITESTAR})
            preview = await stop(client, generation)
            await database.execute("UPDATE previews.previews SET status = 'preparing' WHERE id = $1", preview["id"])
        assert (await client.delete(preview_url(generations[0]))).status_code == 202
        assert (await get(client, generations[0]))["status"] == "lost"
        body = {"files": {}, "kind": "command", "command": ["true"]}
        answer = await client.post(preview_url(generations[1]), params={"replace": "1"}, json=body)
        assert answer.status_code == 202, answer.text
        statuses_ = {p["status"] for p in (await client.get(PREVIEWS)).json()["data"]}
        assert "lost" in statuses_


@pytest.mark.parametrize("times", [2])
async def test_a_second_start_finds_nothing_more_to_end(database_url: str, times: int) -> None:
    async with server_running(database_url) as server, client_of(server) as client:
        generation = new_generation()
        await running(client, generation)
        for _ in range(times):
            await server.kill()
            await server.start()
        assert statuses(await read_to_end(client, generation, after="start"))[-2:] == ["running", "lost"]
