"""Restarting previews and changing their files: the same preview, its next attempt, and its streams go on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.contract import Served, sql
from tests.support.previews import (
    NO_PREVIEW,
    SERVE,
    change,
    ended,
    event_of,
    events_of,
    frames_to_end,
    get,
    is_line,
    is_live,
    is_status,
    launch,
    listed,
    new_generation,
    nothing_is_left,
    preview_url,
    processes_of,
    reached,
    read_to_end,
    recipe,
    refused,
    restart,
    running,
    sse,
    statuses,
    stop,
    tell,
)
from tests.support.readers import eventually

SETTINGS = {"previews_per_tenant": 40}

STUBBORN = SERVE.replace("status =", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nstatus =")
ONE_ATTEMPT = ["preparing", "starting", "running", "stopping"]


@asynccontextmanager
async def nothing_is_stored(tailrace: Served) -> AsyncIterator[None]:
    """As long as the block lasts, nothing can be appended to the previews log."""
    async with sql(tailrace.database_url) as database, database.transaction():
        await database.execute("SELECT 1 FROM previews.log FOR UPDATE")
        yield


# ── an active one ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_restarting_an_active_one_is_its_next_attempt_and_the_stream_goes_on(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    generation = new_generation()
    first = await running(client, generation)
    async with sse(client, generation, after="start") as stream:
        seen = await stream.until(is_live)
        shown = await restart(client, generation)
        assert shown["id"] == first["id"]
        seen += await stream.until(is_status("running", 2))
        preview = await get(client, generation)
        assert (preview["status"], preview["attempt"], preview["id"]) == ("running", 2, first["id"])
        assert preview["expires_at"] > first["expires_at"]
        await client.delete(preview_url(generation))
        seen += await stream.rest()
    assert statuses(seen) == [*ONE_ATTEMPT, *ONE_ATTEMPT, "stopped"]
    told = events_of(seen, "preview_status", "log", "ready")
    assert [event["attempt"] for event in told] == sorted(event["attempt"] for event in told)
    lines = [event["line"] for event in events_of(seen, "log")]
    assert lines == list(range(1, len(lines) + 1))
    assert [event["attempt"] for event in events_of(seen, "log") if event["message"] == "serving"] == [1, 2]
    await nothing_is_left(tailrace.server, first["id"])


async def test_what_the_program_has_written_is_there_in_its_next_attempt(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation, files={"given.txt": "as given"})
    await tell(client, generation, "open('own.txt', 'w').write('own'); open('given.txt', 'w').write('changed')")
    await restart(client, generation)
    await reached(client, generation, "running", attempt=2)
    answer = await tell(client, generation, "answer = open('own.txt').read() + ', ' + open('given.txt').read()")
    assert answer == "own, as given"
    await stop(client, generation)


async def test_a_program_can_be_restarted_before_it_is_ready(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = new_generation()
    preview = await launch(client, generation)
    for _ in range(3):
        await restart(client, generation)
    await reached(client, generation, "running", attempt=2)
    await stop(client, generation)
    await nothing_is_left(tailrace.server, preview["id"])


async def test_a_restart_that_meets_the_programs_own_end_is_its_next_attempt(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    generation = new_generation()
    preview = await running(client, generation)
    async with nothing_is_stored(tailrace):
        await client.get(f"{preview_url(generation)}/app/x?os._exit(3)")
        await eventually(lambda: not processes_of(preview["id"]), "its processes are gone")
        assert (await restart(client, generation))["status"] == "running"
    preview = await reached(client, generation, "running", attempt=2)
    assert preview["exit"] is None
    await stop(client, generation)


async def test_a_restart_of_one_that_is_being_given_up_is_its_next_attempt(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    code = "import os, signal, time\nif not os.path.exists('once'):\n    open('once', 'w').close()\n"
    code += "    signal.signal(signal.SIGTERM, lambda *_: print('told to go', flush=True))\n    time.sleep(600)\n"
    await launch(client, generation, code + SERVE, health={"timeout_seconds": 2.5})
    async with sse(client, generation) as stream:
        await stream.until(is_line("told to go"))  # it is stopped: it did not answer in time
    await restart(client, generation)
    await reached(client, generation, "running", attempt=2)
    await stop(client, generation)


async def test_a_stop_during_a_restart_wins(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = new_generation()
    preview = await running(client, generation, STUBBORN)
    async with sse(client, generation) as stream:
        await restart(client, generation)
        await stream.until(is_status("stopping"))
        async with nothing_is_stored(tailrace):
            await client.get(f"{preview_url(generation)}/app/x?os._exit(3)")
            pids = processes_of(preview["id"])
            await eventually(lambda: not set(pids) & set(processes_of(preview["id"])), "its processes are gone")
            assert (await client.delete(preview_url(generation))).status_code == 202
        await stream.rest()
    assert (await get(client, generation))["status"] == "stopped"
    await nothing_is_left(tailrace.server, preview["id"])


# ── one that has ended ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("last", ["stop", "exit 0", "exit 5", "SIGKILL"])
async def test_one_that_has_ended_starts_again_at_once_however_it_ended(
    client: httpx.AsyncClient, tailrace: Served, last: str
) -> None:
    generation = new_generation()
    preview = await running(client, generation, files={"given.txt": "given"})
    for attempt in (2, 3, 4):
        async with sse(client, generation) as stream:
            if last == "stop":
                await client.delete(preview_url(generation))
            else:
                code = "os.kill(os.getpid(), 9)" if last == "SIGKILL" else f"os._exit({last[-1]})"
                await client.get(f"{preview_url(generation)}/app/x?{code}")
            await stream.until(lambda message: message.event == "stream_end")
            shown = await restart(client, generation)  # without a pause: what is left of the last attempt may be there
        assert (shown["status"], shown["attempt"], shown["id"]) == ("preparing", attempt, preview["id"])
        assert (shown["exit"], shown["tail"], shown["stopped_at"]) == (None, [], None)
        shown = await reached(client, generation, "running", attempt=attempt)
        assert await tell(client, generation, "answer = open('given.txt').read()") == "given"
        assert (await client.get(f"{preview_url(generation)}/app/")).status_code == 200
    assert (await stop(client, generation))["attempt"] == 4
    await nothing_is_left(tailrace.server, preview["id"])


async def test_a_failed_one_can_be_mended_and_started_again(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await launch(client, generation, files={"main.py": "1 / 0"}, command=["python", "main.py"])
    preview = await ended(client, generation)
    assert (preview["status"], preview["tail"] != []) == ("failed", True)
    assert (await change(client, generation, **{"main.py": SERVE})).status_code == 200
    await restart(client, generation)
    preview = await reached(client, generation, "running", attempt=2)
    assert (preview["tail"], preview["message"]) == ([], None)
    await stop(client, generation)


async def test_after_a_revival_a_reader_does_not_end_at_the_old_end_wherever_it_resumes(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    generation = new_generation()
    await running(client, generation)
    await stop(client, generation)
    old = await read_to_end(client, generation, after="start")
    assert (statuses(old)[-1], old[-1].event) == ("stopped", "stream_end")
    await restart(client, generation)
    await reached(client, generation, "running", attempt=2)
    opened = [frame.id for frame in old] + ["start"]
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        live = [asyncio.Event() for _ in opened]

        async def read(after: str, is_there: asyncio.Event) -> list[Any]:
            async with sse(client, generation, after=after) as stream:
                seen = await stream.until(is_live)
                is_there.set()
                return [*seen, *await stream.rest()]

        readers = [tasks.create_task(read(after, there)) for after, there in zip(opened, live, strict=True)]
        for there in live:
            await there.wait()
        await client.delete(preview_url(generation))
    whole = await read_to_end(client, generation, after="start")
    assert statuses(whole) == [*ONE_ATTEMPT, "stopped", *ONE_ATTEMPT, "stopped"]
    everything = [(m.id, m.data) for m in whole if event_of(m)["type"] in ("log", "preview_status", "ready")]
    for after, reader in zip(opened, readers, strict=True):
        got = [(m.id, m.data) for m in reader.result() if event_of(m)["type"] in ("log", "preview_status", "ready")]
        seq = 0 if after == "start" else int(after.rpartition("-")[2])
        assert got == [(i, data) for i, data in everything if int(i.rpartition("-")[2]) > seq]
        assert event_of(reader.result()[-1])["status"] == "stopped"
    for transport in ("tailrace.v1", "channels"):
        frames = await frames_to_end(tailrace.url, transport, generation, after="start")
        assert [f.id for f in frames if f.type in ("log", "preview_status", "ready")] == [i for i, _ in everything]


async def test_polling_and_204_know_of_the_revival(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation)
    await stop(client, generation)
    end = (await read_to_end(client, generation))[-1].id
    url = f"{preview_url(generation)}/logs"
    assert (await client.get(f"{url}/stream", headers={"last-event-id": end})).status_code == 204
    page = (await client.get(f"{url}/events", params={"after": end})).json()
    assert (page["data"], page["ended"]) == ([], "stopped")
    await restart(client, generation)
    async with sse(client, generation, headers={"last-event-id": end}) as stream:
        await stream.until(is_status("running", 2))
    page = (await client.get(f"{url}/events", params={"after": end})).json()
    assert page["ended"] is None
    assert page["data"][0]["event"]["status"] == "preparing"
    await stop(client, generation)


async def test_only_the_newest_of_a_generation_is_started_again(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    first = await running(client, generation)
    await stop(client, generation)
    second = await running(client, generation)
    await stop(client, generation)
    assert (await restart(client, generation))["id"] == second["id"]
    await reached(client, generation, "running", attempt=2)
    await stop(client, generation)
    attempts = {shown["id"]: shown["attempt"] for shown in (await listed(client, generation_id=generation))[0]}
    assert attempts == {first["id"]: 1, second["id"]: 2}


async def test_of_many_restarts_of_an_ended_one_at_once_one_attempt_comes(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation)
    await stop(client, generation)
    url = f"{preview_url(generation)}/restart"
    answers = await asyncio.gather(*(client.post(url) for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert 202 in {answer.status_code for answer in answers}
    async with sse(client, generation, after="start", types="preview_status") as stream:
        seen = await stream.until(lambda m: is_status("running", 2)(m) or is_status("running", 3)(m))
    assert statuses(seen).count("preparing") <= 3  # one of those that came later may have met an active one
    await stop(client, generation)


# ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_files_are_changed_where_the_program_runs_and_for_its_next_attempts(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation, files={"a.txt": "a", "b.txt": "b", "d/c.txt": "c"})
    answer = await change(client, generation, **{"a.txt": "A", "b.txt": None, "e/f/g.txt": "Größe"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["files"] == ["a.txt", "d/c.txt", "e/f/g.txt"]
    look = "answer = [open(n).read() if os.path.exists(n) else None for n in"
    look += " ('a.txt', 'b.txt', 'd/c.txt', 'e/f/g.txt')]"
    assert await tell(client, generation, look) == str(["A", None, "c", "Größe"])
    # they are its own: it may write them
    assert await tell(client, generation, "open('e/f/g.txt', 'a').write('!'); os.remove('a.txt'); os.rmdir") == ""
    await stop(client, generation)
    await restart(client, generation)
    await reached(client, generation, "running", attempt=2)
    assert await tell(client, generation, look) == str(["A", None, "c", "Größe"])
    await stop(client, generation)


async def test_files_are_given_as_they_are_kept_also_after_the_end(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    url = f"{preview_url(generation)}/files"
    shown = await running(client, generation, files={"a.txt": "a", "d/b.txt": "Größe"})
    await tell(client, generation, "open('own.txt', 'w').write('x'); answer = 1")
    assert (await client.get(url)).json() == {"preview_id": shown["id"], "files": {"a.txt": "a", "d/b.txt": "Größe"}}
    await change(client, generation, **{"a.txt": None, "c.txt": "c"})
    assert (await client.get(url)).json()["files"] == {"d/b.txt": "Größe", "c.txt": "c"}
    await stop(client, generation)
    assert (await client.get(url)).json()["files"] == {"d/b.txt": "Größe", "c.txt": "c"}
    await client.delete(preview_url(generation))
    assert await refused(await client.get(url), 404) == NO_PREVIEW


async def test_an_unknown_file_can_be_removed_and_a_change_of_nothing_is_none(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation, files={"a.txt": "a"})
    assert (await change(client, generation, **{"not-there.txt": None})).json()["files"] == ["a.txt"]
    assert (await change(client, generation)).json()["files"] == ["a.txt"]
    await stop(client, generation)


REFUSED: dict[str, dict[str, str | None]] = {
    "absolute": {"/etc/passwd": "x"},
    "above": {"../x": "x"},
    "above inside": {"a/../../x": "x"},
    "dots": {"a/./b": "x"},
    "empty": {"": "x"},
    "empty component": {"a//b": "x"},
    "ends with a slash": {"a/": "x"},
    "NUL": {"a\0b": "x"},
    "a line's end": {"a\nb": "x"},
    "backslash": {"a\\b": "x"},
    "right to left": {"a\u202eb": "x"},
    "ours": {".tailrace-x": "x"},
    "too long": {"x" * 300: "x"},
    "too deep": {"/".join("x" * 40): "x"},
    "the same file": {"a": "x", "a.": "y"},
    "a file and a directory": {"a": "x", "a/b": "y"},
    "too many": {f"f{n}": "" for n in range(2_001)},
    "to be removed, absolute": {"/etc/passwd": None},
    "to be removed, above": {"../x": None},
}


@pytest.mark.parametrize("what", REFUSED)
async def test_files_that_cannot_be_taken_are_refused_all_together(client: httpx.AsyncClient, what: str) -> None:
    generation = await _shared_preview(client)
    before = await get(client, generation)
    wrong = REFUSED[what]
    assert "Nothing was" in await refused(await change(client, generation, **{"good.txt": "good", **wrong}), 400)
    assert await get(client, generation) == before
    assert await tell(client, generation, "answer = sorted(os.listdir('.'))") == "['kept.txt']"
    if None not in wrong.values():
        fresh = new_generation()
        answer = await client.post(preview_url(fresh), json=recipe(files={"good.txt": "good", **wrong}))
        assert "Nothing was stored" in await refused(answer, 400)
        assert (await client.get(preview_url(fresh))).status_code == 404


_shared: list[str] = []


async def _shared_preview(client: httpx.AsyncClient) -> str:
    if not _shared:
        _shared.append(new_generation("files"))
        await running(client, _shared[0], files={"kept.txt": "kept"})
    return _shared[0]


async def test_what_the_program_has_put_in_the_way_is_not_written_through(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation, files={"kept.txt": "kept"})
    await tell(client, generation, "os.symlink('/etc', 'etc'); os.mkdir('directory'); os.symlink('kept.txt', 'link')")
    for wrong in ("etc/passwd", "directory", "link", "kept.txt/x"):
        assert "Nothing was" in await refused(await change(client, generation, good="g", **{wrong: "x"}), 400)
    assert await tell(client, generation, "answer = os.path.exists('good')") == "False"
    assert (await get(client, generation))["files"] == ["kept.txt"]
    await stop(client, generation)


async def test_files_too_large_together_are_refused_also_when_they_come_one_by_one(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation)
    await stop(client, generation)
    for number in range(10):
        answer = await change(client, generation, **{f"{number}.txt": "x" * 1_800_000})
        if answer.status_code == 400:
            break
    assert "16,777,216 bytes together" in answer.json()["detail"]
    assert len((await get(client, generation))["files"]) == number == 9


async def test_what_would_be_too_much_is_not_written_where_the_program_runs(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation, files={f"{n}.txt": "" for n in range(1_999)})
    assert (await change(client, generation, **{"one.txt": "1"})).status_code == 200
    assert "2,001 files" in await refused(await change(client, generation, **{"two.txt": "2", "0.txt": "0"}), 400)
    look = "answer = [os.path.exists('one.txt'), os.path.exists('two.txt'), os.path.getsize('0.txt')]"
    assert await tell(client, generation, look) == "[True, False, 0]"
    assert (await change(client, generation, **{"two.txt": "2", "one.txt": None})).status_code == 200
    await stop(client, generation)


async def test_changes_at_the_same_time_are_all_kept(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation)
    await stop(client, generation)
    answers = await asyncio.gather(*(change(client, generation, **{f"{n}.txt": str(n)}) for n in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len((await get(client, generation))["files"]) == 20
    await restart(client, generation)
    await reached(client, generation, "running", attempt=2)
    assert await tell(client, generation, "answer = len(os.listdir('.'))") == "20"
    await stop(client, generation)
