"""The command line: the real command in a process, against a real Tailrace."""

import asyncio
import itertools
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from services.commands.terminal import CLEAR
from tests.support import tasks
from tests.support.command import COMMAND, NONE, SECONDS, Command, Settings, on_screen, run, started
from tests.support.contract import NO_SUCH_RUN, RUNS, Served, ended_run, finish, metric, status_of
from tests.support.postgres import fresh_database
from tests.support.runs import ended
from tests.support.server import append, lease, running

SETTINGS = {"heartbeat_seconds": 0.5, "runs_inline_capacity": 4}
NDJSON = {"accept": "application/x-ndjson"}
over_both = pytest.mark.parametrize("transport", [(), ("--websocket",)], ids=["sse", "websocket"])
Options = tuple[str, ...]
_numbers = itertools.count(1)
SAMPLE = '{"step_seconds":0,"words":2}'


async def twin(client: httpx.AsyncClient, url: str, **parameters: Any) -> list[str]:
    """The lines of a stream's ndjson twin, the bookmark at its end left out."""
    answer = await client.get(url, headers=NDJSON, params=parameters)
    answer.raise_for_status()
    *lines, last = answer.text.splitlines()
    assert json.loads(last)["event"] == {"type": "bookmark"}
    return lines


async def leased_run(client: httpx.AsyncClient) -> tuple[str, str]:
    """A new run and its lease's token. Its runner is its own: what another test left behind may be queued again."""
    return await lease(client, runner=f"runner-{next(_numbers)}")


async def run_that_became(client: httpx.AsyncClient, status: str) -> str:
    """A run that has ended so."""
    if status in ("completed", "failed"):
        run_id, token = await leased_run(client)
        (await append(client, run_id, token)).raise_for_status()
        (await finish(client, run_id, token, status, error="no way" if status == "failed" else None)).raise_for_status()
        return run_id
    more = {"timeout_seconds": 0.1} if status == "timed_out" else {}
    body = {"task": "t", "runner": "sample", "params": {"step_seconds": 60}, **more}
    run_id = str((await client.post(RUNS, json=body)).raise_for_status().json()["id"])
    if status == "cancelled":
        (await client.post(f"{RUNS}/{run_id}/cancel")).raise_for_status()
    await ended(client, run_id)
    return run_id


# ── tail ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@over_both
@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("cancelled", 3), ("timed_out", 4)])
async def test_a_runs_end_is_the_exit_code(
    client: httpx.AsyncClient, tailrace: Served, status: str, code: int, transport: Options
) -> None:
    run_id = await run_that_became(client, status)
    done = await run("tail", "run", run_id, "--url", tailrace.url, *transport)
    assert (done.code, done.err) == (code, "")
    assert done.lines[0].endswith(" queued") or done.lines[0].endswith(" running")
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {status}\b.*", done.lines[-1])
    assert "\x1b" not in done.out


@over_both
@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 3)])
async def test_a_tasks_end_is_the_exit_code(
    client: httpx.AsyncClient, tailrace: Served, status: str, code: int, transport: Options
) -> None:
    task = await tasks.create(client, status="running", progress={"done": 1, "total": 4})
    async with started("tail", "task", task["id"], "--url", tailrace.url, *transport) as command:
        assert (await command.line())[9:] == "running       █████░░░░░░░░░░░░░░░ 1/4"
        await tasks.patch(client, task["id"], status=status, progress={"done": 4})
        done = await command.rest()
    assert (done.code, done.err) == (code, "")
    assert done.lines[-1][9:].split() == [status, "█" * 20, "4/4"]
    again = await run("tail", "task", task["id"], "--url", tailrace.url, *transport)
    assert (again.code, again.lines) == (code, done.lines[-1:])


@over_both
async def test_json_is_the_ndjson_twin_line_by_line(
    client: httpx.AsyncClient, tailrace: Served, transport: Options
) -> None:
    run_id = await ended_run(client, 20, runner="twenty")
    done = await run("tail", "run", run_id, "--json", "--url", tailrace.url, *transport)
    assert (done.code, done.err) == (0, "")
    assert done.lines == await twin(client, f"{RUNS}/{run_id}/events", limit=1000)
    task = await tasks.create(client, title="naïve 漢字 👍", result={"a": [1, 1.5, True, None, "é"]})
    await tasks.patch(client, task["id"], status="succeeded")
    done = await run("tail", "task", task["id"], "--json", "--url", tailrace.url, *transport)
    assert (done.code, done.err) == (0, "")
    assert done.lines == await twin(client, f"{tasks.of(task)}/events")


async def test_json_is_utf_8_whatever_the_locale_says(client: httpx.AsyncClient, tailrace: Served) -> None:
    task = await tasks.create(client, title="漢字", status="running", progress={"done": 1, "total": 2})
    await tasks.patch(client, task["id"], status="succeeded")
    tail, ascii_only = ("tail", "task", task["id"], "--url", tailrace.url), {"PYTHONIOENCODING": "ascii"}
    done = await run(*tail, "--json", settings=ascii_only)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["event"]["title"] == "漢字"
    plain = await run(*tail, settings=ascii_only)
    assert (plain.code, plain.err) == (0, "")
    assert "succeeded     ????" in plain.out


@over_both
async def test_it_begins_after_the_position_it_is_told(
    client: httpx.AsyncClient, tailrace: Served, transport: Options
) -> None:
    run_id = await ended_run(client, 5, runner=f"runner-{next(_numbers)}")
    frames = await twin(client, f"{RUNS}/{run_id}/events")
    ids = [json.loads(frame)["id"] for frame in frames]
    tail = ("tail", "run", run_id, "--json", "--url", tailrace.url, *transport, "--after")
    assert (await run(*tail, "start")).lines == frames
    assert (await run(*tail, ids[2])).lines == frames[3:]
    for after in (ids[-1], "now"):
        done = await run(*tail, after)
        assert (done.code, done.out) == (0, "")
        assert done.err == "There is nothing after that position: it has ended.\n"
    epoch = ids[0].partition("-")[0]
    reset = await run(*tail, f"{epoch}-9000000")
    assert json.loads(reset.lines[0])["event"]["reason"] == "unknown_position"
    assert reset.lines[1:] == frames
    assert reset.code == 0


async def test_the_outcome_is_known_though_its_news_came_before_the_position(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    run_id = await run_that_became(client, "failed")
    last = json.loads((await twin(client, f"{RUNS}/{run_id}/events"))[-1])["id"]
    assert (await run("tail", "run", run_id, "--after", last, "--url", tailrace.url)).code == 1


async def test_it_shows_the_types_it_is_told(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id = await ended_run(client, 5, runner=f"runner-{next(_numbers)}")
    tail = ("tail", "run", run_id, "--json", "--url", tailrace.url, "--types")
    frames = await twin(client, f"{RUNS}/{run_id}/events")
    for types in ("status", "node_*,error", "*"):
        named = [re.compile(name.replace("*", ".*")) for name in types.split(",")]
        wanted = [f for f in frames if any(name.fullmatch(json.loads(f)["event"]["type"]) for name in named)]
        done = await run(*tail, types)
        assert (done.code, done.err, done.lines) == (0, "", wanted)
    wrong = await run(*tail, "nonsense")
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.startswith("tailrace: no event type here matches 'nonsense'; valid: ")


@over_both
@pytest.mark.parametrize("kind", ["run", "task"])
async def test_a_server_that_is_killed_costs_nothing(postgres_url: str, kind: str, transport: Options) -> None:
    """What was seen before, meanwhile and afterwards is what is stored, each once."""
    async with (
        fresh_database(postgres_url) as url,
        running(url, heartbeat_seconds=0.5, retry_milliseconds=50) as server,
    ):
        async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client:
            run_id, token = await leased_run(client)
            task = await tasks.create(client)
            subject = run_id if kind == "run" else task["id"]
            tail = ("tail", kind, subject, "--json", "--url", server.url, *transport)
            async with started(*tail) as command:
                seen = [await command.line()]
                for number in range(3):
                    await tasks.progress(client, task["id"], number + 1)
                    (await append(client, run_id, token, 7)).raise_for_status()
                    if number == 0:
                        seen += await command.lines(1)
                    await server.kill()
                    await server.start()
                (await append(client, run_id, token, 7)).raise_for_status()
                (await finish(client, run_id, token, "failed", error="no way")).raise_for_status()
                await tasks.patch(client, task["id"], status="failed")
                done = await command.rest()
            assert (done.code, done.err) == (1, "")
            seen += done.lines
            stored = await twin(client, f"/api/v1/{kind}s/{subject}/events", limit=1000, after="start")
        if kind == "run":
            assert seen == stored
        else:  # of snapshots the newest matter, each told once and in order
            assert [line for line in stored if line in seen] == seen
            assert seen[-1] == stored[-1]


@over_both
async def test_a_server_that_goes_for_good_is_waited_for_until_ctrl_c(postgres_url: str, transport: Options) -> None:
    async with fresh_database(postgres_url) as url, running(url) as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            run_id, _ = await leased_run(client)
        async with started("tail", "run", run_id, "--url", server.url, *transport) as command:
            await command.lines(2)
            await server.kill()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(command.process.wait(), 2)
            command.interrupt()
            done = await command.rest()
    assert (done.code, done.out, done.err) == (130, "", "")


@pytest.mark.parametrize("command", [("tail", "run", NO_SUCH_RUN), ("tail", "task", "task_x"), ("submit", "words")])
async def test_where_nothing_answers_a_sentence_says_so_soon(command: tuple[str, ...], unused_url: str) -> None:
    began = time.monotonic()
    done = await run(*command, "--url", unused_url)
    assert (done.code, done.out) == (5, "")
    assert time.monotonic() - began < 5 + 4  # one start of Python on a busy machine
    assert re.fullmatch(rf"tailrace: nothing answers at {unused_url}: .*`tailrace up` starts it; .*\n", done.err)


@pytest.fixture
def unused_url() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


async def test_what_is_not_there_is_a_sentence(client: httpx.AsyncClient, tailrace: Served) -> None:
    for kind, subject, text in (
        ("run", NO_SUCH_RUN, "no such run"),
        ("run", "nonsense", "no such run"),
        ("run", "../../health", ""),
        ("task", tasks.NO_SUCH_TASK, "no such task"),
        ("preview", "gen-1", ""),
    ):
        done = await run("tail", kind, subject, "--url", tailrace.url)
        assert (done.code, done.out) == (5, ""), done
        assert re.fullmatch(rf"tailrace: .*{text}.* \(status 404, request \w+\)\n", done.err), done.err


@over_both
async def test_a_deleted_task_is_a_sentence(client: httpx.AsyncClient, tailrace: Served, transport: Options) -> None:
    task = await tasks.create(client)
    async with started("tail", "task", task["id"], "--url", tailrace.url, *transport) as command:
        await command.line()
        (await client.delete(tasks.of(task))).raise_for_status()
        done = await command.rest()
    assert (done.code, done.out) == (5, "")
    assert re.fullmatch(r"tailrace: access .* has been revoked \(status 404\)\n", done.err)


async def test_something_else_that_answers_is_a_sentence(client: httpx.AsyncClient, tailrace: Served) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b"<html>hello</html>" if b"GET" in head else b'["hello"]'
        kind = b"text/html" if b"GET" in head else b"application/json"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for command in (("tail", "run", NO_SUCH_RUN), ("submit", "words")):
            done = await run(*command, "--url", url)
            assert (done.code, done.out) == (5, "")
            assert done.err.startswith("tailrace: ")
            assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "required"),
        (("nonsense",), "nonsense"),
        (("tail",), "required"),
        (("tail", "run"), "required"),
        (("tail", "walk", "x"), "walk"),
        (("tail", "run", ""), "'' is no id"),
        (("tail", "task", "."), "'.' is no id"),
        (("tail", "run", "x", "--after", "nonsense"), "'nonsense' is not a position: give start, now or"),
        (("tail", "run", "x", "--url", "localhost:8000"), "'localhost:8000' is no address: give one such as"),
        (("tail", "run", "x", "--url", "http://[::1"), "is no address"),
        (("tail", "run", "x", "--url", "http://localhost:65536"), "is no address"),
        (("tail", "run", "x", "--token", "sch\u00f6n"), "that is no text"),
        (("tail", "run", os.fsdecode(b"\xff")), "that is no text"),
        (("submit",), "required"),
        (("submit", "x", "--count", "0"), "from 1 to 100"),
        (("submit", "x", "--count", "101"), "from 1 to 100"),
        (("submit", "x", "--count", "many"), "many"),
        (("submit", "x", "--params", "[1]"), "no JSON object"),
        (("submit", "x", "--params", "{"), "no JSON object"),
        (("submit", "x", "--params", "[" * 10_000), "no JSON object"),
        (("submit", "x", "--title", "t", "--task-id", "task_x"), "not allowed with"),
        (("serve",), "required"),
        (("serve", "nonsense"), "nonsense"),
        (("epoch", "old"), "old"),
    ],
)
async def test_wrong_usage_is_told_and_is_2(arguments: tuple[str, ...], text: str, unused_url: str) -> None:
    done = await run(*arguments, settings={"TAILRACE_URL": unused_url})
    assert (done.code, done.out) == (2, "")
    assert text in done.err
    assert "Traceback" not in done.err


async def test_a_wrong_address_in_the_environment_is_told(unused_url: str) -> None:
    done = await run("tail", "run", "x", settings={"TAILRACE_URL": "somewhere"})
    assert (done.code, done.out) == (2, "")
    assert "'somewhere' is no address" in done.err
    done = await run("tail", "run", NO_SUCH_RUN, settings={"TAILRACE_URL": unused_url})
    assert unused_url in done.err


async def test_the_address_comes_from_the_environment(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id = await ended_run(client, runner="three")
    done = await run("tail", "run", run_id, settings={"TAILRACE_URL": tailrace.url, "TAILRACE_TOKEN": "a.b.c"})
    assert (done.code, done.err) == (0, "")


@over_both
async def test_ctrl_c_ends_it_quietly_and_leaves_nothing(
    client: httpx.AsyncClient, tailrace: Served, transport: Options
) -> None:
    run_id, _ = await leased_run(client)
    name = "websocket" if transport else "sse"
    async with asyncio.timeout(SECONDS):
        while not await metric(client, "tailrace_readers", transport="sse"):
            pass  # the tasks service is about to follow the runs
    before = await metric(client, "tailrace_readers", transport=name)
    async with started("tail", "run", run_id, "--url", tailrace.url, *transport) as command:
        await command.lines(2)
        assert await metric(client, "tailrace_readers", transport=name) == before + 1
        process = psutil.Process(command.process.pid)
        assert process.children() == []
        command.interrupt()
        done = await command.rest()
    assert (done.code, done.out, done.err) == (130, "", "")
    async with asyncio.timeout(SECONDS):
        while await metric(client, "tailrace_readers", transport=name) != before:
            pass  # asking takes its time
    assert await status_of(client, run_id) == "running"


async def test_where_websockets_are_off_a_sentence_says_so(postgres_url: str) -> None:
    async with fresh_database(postgres_url) as url, running(url, websockets=False) as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            run_id = await ended_run(client, runner="three")
        done = await run("tail", "run", run_id, "--websocket", "--url", server.url)
    assert (done.code, done.out) == (5, "")
    assert re.fullmatch(r"tailrace: WebSockets are switched off here; .* \(status 403, request \w+\)\n", done.err)


async def test_ctrl_c_while_it_waits_for_words_ends_it(tailrace: Served) -> None:
    async with started("submit", "-", "--url", tailrace.url) as command:
        process = psutil.Process(command.process.pid)
        async with asyncio.timeout(SECONDS):
            while not _reads(process):  # noqa: ASYNC110  the kernel tells nobody
                await asyncio.sleep(0.02)
        command.interrupt()
        assert await command.ended() == 130
        done = await command.rest()
    assert (done.out, done.err) == ("", "")


def _reads(process: psutil.Process) -> bool:
    """Whether it waits inside read(0)."""
    try:
        return Path(f"/proc/{process.pid}/syscall").read_text().startswith("0 0x0 ")
    except OSError:
        pytest.skip("this kernel does not tell what a process waits for")


async def test_a_closed_pipe_ends_it_quietly(client: httpx.AsyncClient, tailrace: Served) -> None:
    """The first line is all that `head -1` wants; the rest is more than a pipe holds (64 KiB)."""
    run_id, token = await leased_run(client)
    events = [{"type": "node_update", "node": "n", "snippet": "x" * 200} for _ in range(500)]
    added = await client.post(f"{RUNS}/{run_id}/events", json={"events": events}, headers={"tailrace-lease": token})
    added.raise_for_status()
    for option in ("", "--json"):
        line = f"'{COMMAND}' tail run {run_id} {option} --url {tailrace.url} | head -1; echo ${{PIPESTATUS[*]}}"
        async with started("-c", line, command="bash") as shell:
            done = await shell.rest()
        first, codes = done.lines
        assert "queued" in first
        assert (codes, done.err) == ("5 0", "")


# ── for people ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_colours_are_for_terminals(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id = await ended_run(client, 1, runner="one")
    tail = ("tail", "run", run_id, "--url", tailrace.url)
    async with on_screen(*tail) as screen:
        assert await screen.ended() == 0
        await screen.until("\x1b[32mcompleted\x1b[0m")
    plain: list[tuple[list[str], dict[str, str]]]
    plain = [([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"}), (["--no-colour"], {}), (["--json"], {})]
    for options, settings in plain:
        async with on_screen(*tail, *options, settings=settings) as screen:
            assert await screen.ended() == 0
            await screen.until("completed")
            assert "\x1b" not in screen.shown
    async with on_screen(*tail, pipe_output=True) as screen:  # only the messages are on the terminal
        assert screen.process.stdout is not None
        assert b"\x1b" not in await screen.process.stdout.read()


async def test_while_nothing_comes_people_see_that_it_waits(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, token = await leased_run(client)
    async with on_screen("tail", "run", run_id, "--url", tailrace.url, settings={"COLUMNS": "80"}) as screen:
        await screen.until("s: nothing new")
        (await append(client, run_id, token)).raise_for_status()
        await screen.until("#1")
        (await finish(client, run_id, token)).raise_for_status()
        assert await screen.ended() == 0
        await screen.until("completed")
        *_, last = screen.shown.split(CLEAR)
        assert "nothing new" not in last  # it was taken back


async def test_while_the_server_is_away_people_see_that_it_tries(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        running(url, retry_milliseconds=50) as server,
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client,
    ):
        run_id, token = await leased_run(client)
        async with on_screen("tail", "run", run_id, "--url", server.url, settings={"COLUMNS": "300"}) as screen:
            await screen.until("running")
            await server.kill()
            await screen.until("s: the connection is lost, trying again (")
            await server.start()
            (await finish(client, run_id, token)).raise_for_status()
            assert await screen.ended() == 0


async def test_a_pipe_never_sees_that_it_waits(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, token = await leased_run(client)
    async with started("tail", "run", run_id, "--url", tailrace.url) as command:
        await command.lines(2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(command.process.wait(), 4)
        (await finish(client, run_id, token)).raise_for_status()
        done = await command.rest()
    assert (done.code, done.err, len(done.lines)) == (0, "", 1)


async def test_ctrl_c_takes_the_status_line_back(client: httpx.AsyncClient, tailrace: Served) -> None:
    run_id, _ = await leased_run(client)
    async with on_screen("tail", "run", run_id, "--url", tailrace.url) as screen:
        await screen.until("nothing new")
        screen.process.send_signal(signal.SIGINT)
        assert await screen.ended() == 130
        await screen.until(CLEAR)
        assert screen.shown.endswith(CLEAR)
        assert "Traceback" not in screen.shown


# ── submit ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def detail(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.get(f"{RUNS}/{run_id}")).raise_for_status().json()
    return answer


async def test_a_run_is_started_and_watched(client: httpx.AsyncClient, tailrace: Served) -> None:
    done = await run(
        "submit", "Say something", "--params", SAMPLE, "--session", "s", "--workers", "3", "--url", tailrace.url
    )
    assert (done.code, done.err) == (0, "")
    run_id, *lines = done.lines
    assert lines[-1].endswith(" completed 2 tokens This is")
    made = await detail(client, run_id)
    assert (made["task"], made["runner"], made["mode"], made["session_id"]) == (
        "Say something",
        "sample",
        "inline",
        "s",
    )


async def test_a_run_that_fails_fails_the_command(tailrace: Served) -> None:
    params = '{"step_seconds":0,"words":1,"fail":"as told"}'
    done = await run("submit", "x", "--params", params, "--url", tailrace.url)
    assert (done.code, done.err) == (1, "")
    assert done.lines[-1].endswith("as told")
    params = '{"step_seconds":60}'
    assert (await run("submit", "x", "--params", params, "--timeout", "0.1", "--url", tailrace.url)).code == 4


async def test_the_words_come_from_standard_input(client: httpx.AsyncClient, tailrace: Served) -> None:
    text = "several\nlines, 漢字\n"
    submit = ("submit", "-", "--params", SAMPLE, "--detach", "--url", tailrace.url)
    done = await run(*submit, stdin=text.encode())
    assert (done.code, done.err) == (0, "")
    assert (await detail(client, done.out.strip()))["task"] == text
    for wrong in (b"", b"\xff\xfe"):
        done = await run(*submit, stdin=wrong)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("tailrace: ")
        assert "Traceback" not in done.err


@over_both
async def test_several_runs_are_watched_to_the_last(
    client: httpx.AsyncClient, tailrace: Served, transport: Options
) -> None:
    submit = (
        "submit",
        "x",
        "--count",
        "3",
        "--stagger-ms",
        "10",
        "--params",
        SAMPLE,
        *transport,
        "--url",
        tailrace.url,
    )
    done = await run(*submit)
    assert (done.code, done.err) == (0, "")
    ids, lines = done.lines[:3], done.lines[3:]
    for run_id in ids:
        own = [line for line in lines if line[9:15] == run_id[-6:]]
        assert " queued" in own[0]
        assert " completed" in own[-1]
        assert (await detail(client, run_id))["status"] == "completed"
    done = await run(*submit, "--json")
    frames = [json.loads(line) for line in done.lines]
    runs = {frame["event"]["run_id"] for frame in frames}
    assert (done.code, len(runs)) == (0, 3)
    assert done.lines == await twin(client, f"{RUNS}/events", run=sorted(runs), after="start", limit=1000)


async def test_of_several_runs_the_worst_end_counts(client: httpx.AsyncClient, tailrace: Served) -> None:
    async with started("submit", "x", "--count", "3", "--runner", "worst", "--url", tailrace.url) as command:
        ids = await command.lines(3)
        (await client.post(f"{RUNS}/{ids[0]}/cancel")).raise_for_status()
        (await client.delete(f"{RUNS}/{ids[0]}")).raise_for_status()
        (await client.post(f"{RUNS}/{ids[1]}/cancel")).raise_for_status()
        leased = await client.post(f"{RUNS}/lease", json={"runners": ["worst"], "wait_seconds": 20})
        token = leased.raise_for_status().json()["lease"]["token"]
        (await finish(client, ids[2], token)).raise_for_status()
        done = await command.rest()
    assert done.code in (3, 5)  # whether it saw the first one's end before that was deleted
    assert done.err == ""


async def test_a_title_makes_a_task_that_owns_the_runs(client: httpx.AsyncClient, tailrace: Served) -> None:
    submit = ("submit", "x", "--title", "All of it", "--params", SAMPLE, "--url", tailrace.url)
    done = await run(*submit, "--count", "2")
    assert (done.code, done.err) == (0, "")
    task_id, *ids = done.lines[:3]
    assert done.lines[-1][9:].split() == ["succeeded", "█" * 20, "2/2", "runs"]
    task = await tasks.get(client, task_id)
    assert (task["title"], task["kind"], sorted(task["run_ids"])) == ("All of it", "runs", sorted(ids))


async def test_a_task_whose_runs_are_refused_is_not_left_behind(client: httpx.AsyncClient, tailrace: Served) -> None:
    done = await run("submit", "x", "--title", "Never", "--runner", "nonsense", "--url", tailrace.url)
    assert (done.code, done.out) == (2, "")
    listed, _ = await tasks.listed(client)
    assert "Never" not in [task["title"] for task in listed]


async def test_a_runner_that_is_not_there_is_a_sentence(tailrace: Served) -> None:
    done = await run("submit", "x", "--runner", "nonsense", "--url", tailrace.url)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"tailrace: .*nonsense.*sample.* \(status 422, request \w+\)\n", done.err)
    done = await run("submit", "x", "--runner", "openai", "--url", tailrace.url)
    assert done.code == 2
    assert "TAILRACE_OPENAI_BASE_URL" in done.err


async def test_detached_it_prints_the_ids_and_leaves(client: httpx.AsyncClient, tailrace: Served) -> None:
    submit = ("submit", "x", "--queued", "--runner", "nobody", "--detach", "--url", tailrace.url)
    done = await run(*submit)
    assert (done.code, done.err) == (0, "")
    assert (await detail(client, done.out.strip()))["status"] == "queued"
    done = await run(*submit, "--count", "2", "--json")
    for line in done.lines:
        frame = json.loads(line)
        made = await detail(client, frame["event"]["id"])
        assert (made["status"], made["last_position"]) == ("queued", frame["id"])
    assert len(done.lines) == 2


async def test_queued_with_nobody_to_take_it_people_see_that_it_waits(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    async with on_screen("submit", "x", "--queued", "--runner", "nobody2", "--url", tailrace.url) as screen:
        await screen.until("queued")
        await screen.until("s: nothing new")
        run_id = screen.shown.split()[0]
        (await client.post(f"{RUNS}/{run_id}/cancel")).raise_for_status()
        assert await screen.ended() == 3


async def test_no_room_is_not_nobody(client: httpx.AsyncClient, tailrace: Served) -> None:
    body = {"task": "t", "runner": "sample", "params": {"step_seconds": 60}}
    ids: list[str] = []
    while len(ids) < SETTINGS["runs_inline_capacity"]:  # a look into the queue takes a place for a moment
        made = await client.post(RUNS, json=body)
        ids += [made.json()["id"]] if made.status_code == 201 else []
    try:
        done = await run("submit", "x", "--url", tailrace.url)
        assert (done.code, done.out) == (5, "")
        assert done.err.startswith("tailrace: no room for another inline run here; try again, or use mode=queued")
    finally:
        for run_id in ids:
            (await client.post(f"{RUNS}/{run_id}/cancel")).raise_for_status()


# ── serve ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def serving(
    url: str, command: str, *arguments: str, settings: Settings = NONE
) -> AsyncIterator[tuple[Command, str, str]]:
    """A server begun by a command: the command, its address, and what it said until it had told that."""
    own = {"TAILRACE_DATABASE_URL": url, "TAILRACE_PORT": "0", **settings}
    async with started(*arguments, command=command, settings=own) as server:
        said = ""
        while not (told := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = await server.line()
            assert line or not server.process.stdout.at_eof(), (await server.rest()).err  # type: ignore[union-attr]
            said += line + "\n"
        yield server, told[0], said


@pytest.mark.parametrize(
    ("command", "services"),
    [
        ((COMMAND, "serve", "tasks"), ["tasks"]),
        ((COMMAND, "serve", "runs"), ["runs"]),
        ((COMMAND, "serve", "all"), ["tasks", "runs", "previews"]),
        ((COMMAND, "up"), ["tasks", "runs", "previews"]),
        ((sys.executable, "-m", "services.tasks"), ["tasks"]),
        ((sys.executable, "-m", "services.runs"), ["runs"]),
        ((COMMAND, "serve", "previews"), ["previews"]),
        ((sys.executable, "-m", "services.previews"), ["previews"]),
    ],
)
async def test_it_serves_what_it_is_told(postgres_url: str, command: tuple[str, ...], services: list[str]) -> None:
    for_clients = {"TAILRACE_URL": "http://elsewhere:1", "TAILRACE_TOKEN": "a.b.c"}
    async with (
        fresh_database(postgres_url) as url,
        serving(url, *command, settings=for_clients) as (server, base, _),
        httpx.AsyncClient(base_url=base, timeout=SECONDS) as client,
    ):
        for name in ("tasks", "runs"):
            expected = 200 if name in services else 404
            assert (await client.get(f"/api/v1/{name}")).status_code == expected
        checks = (await client.get("/ready")).raise_for_status().json()["checks"]
        assert {check.partition(".")[0] for check in checks} == set(services)
        server.process.terminate()
        done = await server.rest()
    assert done.code == 0
    assert "Traceback" not in done.err


async def test_the_welcome_names_what_is_there(postgres_url: str) -> None:
    for service, there, not_there in (("tasks", "Watch all tasks", "submit"), ("runs", "submit", "Watch all tasks")):
        async with fresh_database(postgres_url) as url, serving(url, COMMAND, "serve", service) as (server, base, said):
            server.process.send_signal(signal.SIGINT)
            done = await server.rest()
        assert done.code == 0
        assert there in said + done.out
        assert not_there not in said + done.out
        assert base in done.out


async def test_what_stops_a_server_is_a_sentence(tailrace: Served) -> None:
    port = tailrace.url.rpartition(":")[2]
    for settings, text in (
        ({"TAILRACE_PORT": port}, f"Cannot listen on 127.0.0.1:{port}"),
        ({"TAILRACE_PORT": "-1"}, "TAILRACE_PORT is '-1'"),
        ({"TAILRACE_RUNS_URL": "http://"}, "TAILRACE_RUNS_URL is 'http://'; give an address that begins"),
        ({"TAILRACE_RUNS_URL": "http://localhost:65536"}, "TAILRACE_RUNS_URL is 'http://localhost:65536'; give"),
        ({"TAILRACE_PROT": "1"}, "There is no setting TAILRACE_PROT"),
        ({"TAILRACE_TASKS_STREAM_INTERVAL_SECONDS": "11"}, "TAILRACE_TASKS_STREAM_INTERVAL_SECONDS is '11'"),
    ):
        done = await run("serve", "all", settings={"TAILRACE_DATABASE_URL": tailrace.database_url, **settings})
        assert (done.code, done.out) == (1, "")
        assert text in done.err
        assert done.err.count("\n") == 1
