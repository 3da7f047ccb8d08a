"""Previews from launch to end: kinds, states, readiness, crashes, stopping, replacing, limits."""

import asyncio
import shutil
from typing import Any

import httpx
import pytest

from tests.support.contract import Served, sql
from tests.support.previews import (
    LITESTAR,
    PREVIEWS,
    SERVE,
    ended,
    event_of,
    events_of,
    files_of,
    get,
    is_status,
    launch,
    listed,
    new_generation,
    nothing_is_left,
    preview_url,
    processes_of,
    python,
    reached,
    read_to_end,
    recipe,
    refused,
    running,
    sse,
    statuses,
    stop,
    tell,
)
from tests.support.previews import frames_to_end as frames_of
from tests.support.readers import eventually

SETTINGS = {"previews_per_tenant": 30, "preview_ttl_seconds": 600, "preview_check_seconds": 0.3}

WSGI = """\
def app(environ, start_response):
    print("asked for " + environ["PATH_INFO"])
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"from a program"]
"""
NODE = """\
const http = require("http");
console.log("about to listen");
http.createServer((request, response) => response.end("from a program")).listen(process.env.PORT);
"""
KINDS: dict[str, dict[str, Any]] = {
    "asgi": {"files": {"main.py": LITESTAR}, "kind": "asgi", "entry": "main:app"},
    "wsgi": {"files": {"app/main.py": WSGI, "app/__init__.py": ""}, "kind": "wsgi", "entry": "app.main:app"},
    "static": {"files": {"index.html": "from a program"}, "kind": "static", "entry": ""},
    "node": {"files": {"server.js": NODE}, "kind": "node", "entry": "server.js"},
    "command": {"files": {"main.py": SERVE}, "kind": "command", "command": ["python", "main.py"]},
}


# ── launch ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
async def test_a_program_of_each_kind_is_launched_answers_and_is_stopped(
    client: httpx.AsyncClient, tailrace: Served, kind: str
) -> None:
    if kind == "node" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    generation = new_generation(kind)
    answer = await client.post(preview_url(generation), json=KINDS[kind])
    assert answer.status_code == 202, answer.text
    launched = answer.json()
    async with sse(client, generation, after="start") as stream:
        seen = await stream.until(lambda message: message.event == "ready")
        if kind != "command":
            answer = await client.get(f"{preview_url(generation)}/app/")
            assert (answer.status_code, answer.text) == (200, "from a program")
        assert (await client.delete(preview_url(generation))).status_code == 202
        seen += await stream.rest()
    assert statuses(seen) == ["preparing", "starting", "running", "stopping", "stopped"]
    assert seen[-1].event == "stream_end"
    preview = await get(client, generation)
    assert preview["status"] == "stopped"
    assert preview["message"] == "stopped"
    assert preview["started_at"] < preview["stopped_at"]
    await nothing_is_left(tailrace.server, launched["id"])


async def test_the_answer_to_a_launch_says_what_is_known_then(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = new_generation("answer é")
    body = {
        "files": {"b.txt": "b", "a/a.txt": "a"},
        "kind": "command",
        "command": python(SERVE),
        "env": {"SECRET": "not shown"},
        "health": {"path": "/alive", "timeout_seconds": 30},
        "ttl_seconds": 120,
    }
    answer = await client.post(preview_url(generation), json=body)
    assert answer.status_code == 202, answer.text
    preview = answer.json()
    assert answer.headers["etag"]
    assert preview["id"].startswith("prv_")
    label = preview["id"].replace("_", "-")
    shown = {
        "tenant": "default",
        "owner": "local",
        "generation_id": generation,
        "status": "preparing",
        "kind": "command",
        "entry": "",
        "command": python(SERVE),
        "url": f"http://{label}.localhost:{tailrace.server.port}/",
        "passage": f"{preview_url(generation)}/app/",
        "attempt": 1,
        "exit": None,
        "message": None,
        "ready_after_ms": None,
        "tail": [],
        "health": {"path": "/alive", "timeout_seconds": 30.0},
        "network": False,
        "files": ["a/a.txt", "b.txt"],
        "started_at": None,
        "stopped_at": None,
    }
    assert {name: preview[name] for name in shown} == shown
    assert preview["isolation"] in ("bubblewrap", "uid", "process")
    assert (await client.get("/ready")).json()["checks"]["previews.isolation"].startswith(f"ok: {preview['isolation']}")
    assert preview["expires_at"][:4] >= preview["created_at"][:4]
    assert "not shown" not in answer.text
    await stop(client, generation)


async def test_each_status_is_told_with_all_that_is_known_of_it(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    preview = await running(client, generation)
    await stop(client, generation)
    told = events_of(await read_to_end(client, generation, after="start"), "preview_status", "ready")
    for event in told:
        assert event["preview_id"] == preview["id"]
        assert (event["generation_id"], event["tenant"], event["attempt"]) == (generation, "default", 1)
    by_status = {event.get("status", "ready"): event for event in told}
    assert by_status["ready"]["url"] == by_status["running"]["url"] == preview["url"]
    after_ms = by_status["running"]["ready_after_ms"]
    assert after_ms == by_status["ready"]["ready_after_ms"] == preview["ready_after_ms"]
    assert 0 < after_ms < 20_000
    assert [event["type"] for event in told].index("ready") == 3  # right after running
    assert by_status["stopping"]["message"] == "stopped"
    assert by_status["stopped"]["exit"] == {"code": None, "signal": "SIGTERM"}
    assert all(event["isolation"] == preview["isolation"] for event in told if "status" in event)


async def test_a_program_finds_its_files_its_environment_and_a_clean_one_besides(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation, files={"data/words.txt": "wörter"}, env={"GREETING": "hello"})
    seen = await tell(
        client,
        generation,
        "answer = [open('data/words.txt').read(), os.environ['GREETING'], os.environ['DATABASE_URL'],"
        " os.environ['PYTHONUNBUFFERED'], sorted(n for n in os.environ if 'POSTGRES' in n or n == 'TAILRACE_PORT')]",
    )
    assert seen == str(["wörter", "hello", "sqlite:///./preview.db", "1", []])
    await stop(client, generation)


# ── readiness ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [200, 204, 301, 404, 418])
async def test_any_answer_below_500_will_do(client: httpx.AsyncClient, code: int) -> None:
    generation = new_generation()
    await running(client, generation, SERVE.replace("200}", f"{code}}}"))
    await stop(client, generation)


async def test_an_answer_of_500_or_more_is_not_ready(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    code = (
        SERVE.replace("200}", "503}").replace('print("serving"', 'asked = 0\nprint("serving"')
        + "        asked += 1\n        if asked == 3: status['/health'] = 200\n"
    )
    await launch(client, generation, code)
    async with sse(client, generation, after="start", types="preview_status") as stream:
        seen = await stream.until(is_status("running"))
    assert statuses(seen) == ["preparing", "starting", "running"]
    assert await tell(client, generation, "answer = asked") == "4"
    await stop(client, generation)


async def test_one_that_does_not_answer_in_time_has_failed(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = new_generation()
    code = "import time; print('dreaming', flush=True); time.sleep(600)"
    preview = await launch(client, generation, code, health={"timeout_seconds": 0.7})
    preview = await ended(client, generation)
    assert (preview["status"], preview["message"]) == ("failed", "it did not answer within 0.7 s")
    assert preview["exit"] == {"code": None, "signal": "SIGTERM"}
    assert "dreaming" in preview["tail"]
    assert preview["ready_after_ms"] is None
    await nothing_is_left(tailrace.server, preview["id"])


async def test_one_that_answers_nothing_but_500_has_failed(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await launch(client, generation, SERVE.replace("200}", "500}"), health={"timeout_seconds": 0.7})
    assert (await ended(client, generation))["status"] == "failed"


@pytest.mark.parametrize(
    ("last", "how"),
    [
        ("sys.exit(3)", {"code": 3, "signal": None}),
        ("pass", {"code": 0, "signal": None}),
        ("raise ValueError('no such river')", {"code": 1, "signal": None}),
        ("os.kill(os.getpid(), 9)", {"code": None, "signal": "SIGKILL"}),
        ("os.abort()", {"code": None, "signal": "SIGABRT"}),
    ],
)
async def test_one_that_ends_before_it_answers_has_failed_at_once(
    client: httpx.AsyncClient, last: str, how: dict[str, Any]
) -> None:
    generation = new_generation()
    code = f"import os, sys\nfor n in range(40): print('line', n, flush=True)\n{last}"
    await launch(client, generation, code, health={"timeout_seconds": 600})
    preview = await ended(client, generation)
    assert (preview["status"], preview["message"]) == ("failed", "it ended before it answered")
    assert preview["exit"] == how
    assert "line 39" in preview["tail"]
    if "ValueError" in last:
        assert "ValueError: no such river" in preview["tail"]
    assert preview["tail"][-1].startswith("attempt 1 failed: it ended before it answered")
    assert len(preview["tail"]) <= 30


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"command": ["no-such-program"]}, "No such file"),
        ({"kind": "static", "entry": "nowhere", "command": []}, "nowhere"),
        ({"kind": "node", "entry": "nowhere.js", "command": []}, "nowhere.js"),
    ],
)
async def test_what_cannot_be_started_has_failed_and_says_why(
    client: httpx.AsyncClient, tailrace: Served, fields: dict[str, Any], named: str
) -> None:
    generation = new_generation()
    preview = await launch(client, generation, **fields)
    seen = await read_to_end(client, generation, after="start")
    assert statuses(seen)[0] == "preparing"
    assert statuses(seen)[-1] == "failed"
    preview = await get(client, generation)
    assert named in preview["message"]
    assert any(named in event["message"] for event in events_of(seen, "log"))
    await nothing_is_left(tailrace.server, preview["id"])


async def test_a_module_that_cannot_be_imported_fails_with_its_traceback(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await launch(client, generation, files={"main.py": "import nothing_like_this\n"}, kind="asgi", entry="main:app")
    preview = await ended(client, generation)
    assert preview["status"] == "failed"
    assert "ModuleNotFoundError: No module named 'nothing_like_this'" in preview["tail"]
    logs = events_of(await read_to_end(client, generation, after="start"), "log")
    assert {event["level"] for event in logs if "Traceback" in event["message"]} == {"ERROR"}


async def test_one_that_does_not_answer_any_more_is_unhealthy_and_running_again_when_it_does(
    client: httpx.AsyncClient,
) -> None:
    generation = new_generation()
    await running(client, generation)
    async with sse(client, generation, after="start", types="preview_status,ready") as stream:
        await tell(client, generation, "status['/health'] = 500")
        seen = await stream.until(is_status("unhealthy"))
        assert event_of(seen[-1])["message"] == "it does not answer"
        preview = await get(client, generation)
        assert (preview["status"], preview["exit"]) == ("unhealthy", None)
        assert await tell(client, generation, "answer = 'still there'") == "still there"
        for _ in range(2):  # and it may happen again
            await tell(client, generation, "status['/health'] = 200")
            seen += await stream.until(is_status("running"))
            assert "message" not in event_of(seen[-1])
            await tell(client, generation, "status['/health'] = 500")
            seen += await stream.until(is_status("unhealthy"))
        preview = await stop(client, generation)
        seen += await stream.rest()
    up_and_down = ["unhealthy", "running", "unhealthy", "running", "unhealthy"]
    assert statuses(seen) == ["preparing", "starting", "running", *up_and_down, "stopping", "stopped"]
    assert len(events_of(seen, "ready")) == 1
    assert preview["status"] == "stopped"


async def test_one_answer_that_is_missed_makes_nobody_unhealthy(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    flaky = "asked = globals().get('asked', 0) + (path == '/health')\n"
    flaky += "            status['/health'] = 500 if asked > 1 and asked % 2 else 200\n            answer = "
    code = SERVE.replace("answer = ", flaky)
    await running(client, generation, code)

    async def is_asked_often() -> bool:
        return int(await tell(client, generation, "answer = asked")) > 8

    await eventually(is_asked_often, "its health is asked for")
    assert statuses(await _read_until_live(client, generation)) == ["preparing", "starting", "running"]
    await stop(client, generation)


async def _read_until_live(client: httpx.AsyncClient, generation: str) -> list[Any]:
    async with sse(client, generation, after="start") as stream:
        return await stream.until(lambda message: message.event == "live")


# ── its end ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("last", "how"),
    [
        ("os._exit(7)", {"code": 7, "signal": None}),
        ("os._exit(0)", {"code": 0, "signal": None}),
        ("os.kill(os.getpid(), signal.SIGSEGV)", {"code": None, "signal": "SIGSEGV"}),
    ],
)
async def test_one_that_crashes_later_has_exited_with_its_code_or_signal(
    client: httpx.AsyncClient, tailrace: Served, last: str, how: dict[str, Any]
) -> None:
    generation = new_generation()
    preview = await running(client, generation)
    answer = await client.get(f"{preview_url(generation)}/app/x?print('last%20words',flush=True);{last}")
    assert answer.status_code == 502
    seen = await read_to_end(client, generation, after="start")
    assert statuses(seen) == ["preparing", "starting", "running", "exited"]
    assert event_of(seen[-1])["status"] == "exited"
    preview = await get(client, generation)
    assert (preview["status"], preview["exit"]) == ("exited", how)
    assert ("last words" in preview["tail"]) == (how != {"code": 0, "signal": None})
    assert [event["message"] for event in events_of(seen, "log")][-2] == "last words"
    assert (await client.get(f"{preview_url(generation)}/app/")).status_code == 409
    await nothing_is_left(tailrace.server, preview["id"])


async def test_stopping_ends_grandchildren_too_and_one_that_ignores_sigterm(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    generation = new_generation()
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    preview = await running(client, generation, SERVE.replace("status =", f"{stubborn}status ="))
    await tell(
        client,
        generation,
        "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True);"
        " os.system('setsid sleep 601 >/dev/null 2>&1 &')",
    )
    assert len(processes_of(preview["id"])) >= 3
    preview = await stop(client, generation)
    assert (preview["status"], preview["exit"]) == ("stopped", {"code": None, "signal": "SIGKILL"})
    await nothing_is_left(tailrace.server, preview["id"])


async def test_stopping_twice_is_as_good_as_once(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation)
    answers = await asyncio.gather(*(client.delete(preview_url(generation)) for _ in range(5)))
    assert {answer.status_code for answer in answers} <= {202, 204}
    assert answers[0].status_code == 202


async def test_one_can_be_stopped_before_it_is_ready(client: httpx.AsyncClient, tailrace: Served) -> None:
    for _ in range(5):
        generation = new_generation()
        preview = await launch(client, generation)
        preview = await stop(client, generation)
        assert preview["status"] == "stopped"
        await nothing_is_left(tailrace.server, preview["id"])


async def test_deleting_one_that_has_ended_removes_it_from_every_read(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    generation = new_generation()
    preview = await running(client, generation)
    await stop(client, generation)
    assert (await client.delete(preview_url(generation))).status_code == 204
    for path in ("", "/logs", "/logs/stream", "/logs/events", "/app/"):
        assert await refused(await client.get(preview_url(generation) + path), 404) == "There is no such preview."
    assert preview["id"] not in {shown["id"] for shown in (await listed(client))[0]}
    page = (await client.get(f"{PREVIEWS}/events", params={"after": "start", "types": "*", "limit": 1000})).json()
    told = [f["event"]["type"] for f in page["data"] if f["event"].get("preview_id") == preview["id"]]
    assert told == ["deleted"]
    assert (await client.delete(preview_url(generation))).status_code == 404
    again = await running(client, generation)  # the generation may have another
    assert again["id"] != preview["id"]
    await stop(client, generation)
    logs = events_of(await read_to_end(client, generation, after="start"), "log")
    assert logs[0]["line"] == 1


async def test_a_reader_of_one_that_is_deleted_is_told(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation)
    await stop(client, generation)
    url = f"{preview_url(generation)}/logs/stream"
    # a stream of an ended one is over at once: what is watched is the feed
    async with client.stream("GET", f"{PREVIEWS}/stream?types=deleted") as response:
        lines = response.aiter_lines()
        async for line in lines:
            if line == "event: live":
                break
        assert (await client.delete(preview_url(generation))).status_code == 204
        async with asyncio.timeout(20):
            async for line in lines:
                if line.startswith("data:") and generation in line:
                    break
    assert (await client.get(url)).status_code == 404


async def test_time_is_up_after_the_ttl(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = new_generation()
    preview = await launch(client, generation, ttl_seconds=1.5)
    seen = await read_to_end(client, generation, after="start")
    told = events_of(seen, "preview_status")
    assert statuses(seen) == ["preparing", "starting", "running", "stopping", "stopped"]
    assert told[-1]["message"] == "stopped: its time was over"
    assert told[0]["expires_at"] == preview["expires_at"]
    preview = await get(client, generation)
    assert preview["expires_at"] is None
    await nothing_is_left(tailrace.server, preview["id"])


# ── one of a generation ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_second_one_while_the_first_is_active_is_409(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    first = await running(client, generation)
    answer = await client.post(preview_url(generation), json=recipe())
    assert "replace=true" in await refused(answer, 409)
    assert answer.json()["preview_id"] == first["id"]
    assert (await get(client, generation))["id"] == first["id"]
    await stop(client, generation)


async def test_of_many_launches_at_once_one_is_taken(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    answers = await asyncio.gather(*(client.post(preview_url(generation), json=recipe()) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [202, *[409] * 9]
    await stop(client, generation)
    assert len((await listed(client, generation_id=generation))[0]) == 1


async def test_replacing_ends_the_old_one_and_its_stream_and_leaves_nothing_of_it(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    generation = new_generation()
    old = await running(client, generation, files={"old.txt": ""})
    async with sse(client, generation) as stream:
        await stream.until(lambda message: message.event == "live")
        answer = await client.post(preview_url(generation), params={"replace": "true"}, json=recipe())
        assert answer.status_code == 202, answer.text
        end = (await stream.rest())[-1]
    assert (event_of(end)["status"], event_of(end)["final"]) == ("stopped", True)
    new = await reached(client, generation, "running")
    assert new["id"] == answer.json()["id"] != old["id"]
    assert (new["attempt"], new["files"]) == (1, [])
    await nothing_is_left(tailrace.server, old["id"])
    assert await tell(client, generation, "answer = os.path.exists('old.txt')") == "False"
    ids = {shown["id"]: shown["status"] for shown in (await listed(client, generation_id=generation))[0]}
    assert ids == {new["id"]: "running", old["id"]: "stopped"}
    await stop(client, generation)


async def test_replacing_none_is_a_launch(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    for _ in range(2):
        answer = await client.post(preview_url(generation), params={"replace": "1"}, json=recipe())
        assert answer.status_code == 202
    await stop(client, generation)


async def test_a_new_one_after_the_end_takes_the_old_ones_place(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = new_generation()
    await running(client, generation)
    old = await stop(client, generation)
    frames = await frames_of(tailrace.url, "sse", generation, after="start")
    assert {f.event["preview_id"] for f in frames if "preview_id" in f.event} == {old["id"]}
    new = await running(client, generation)
    await stop(client, generation)
    frames = await frames_of(tailrace.url, "sse", generation, after="start")
    assert {f.event["preview_id"] for f in frames if "preview_id" in f.event} == {new["id"]}
    assert files_of(tailrace.server, old["id"]) == []


# ── sent again ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_launch_that_is_sent_again_with_its_key_gets_the_first_answer(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    url, headers = preview_url(generation), {"idempotency-key": new_generation("key")}
    answers = await asyncio.gather(*(client.post(url, json=recipe(), headers=headers) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    await reached(client, generation, "running")
    again = await client.post(url, params={"replace": "1"}, json=recipe(), headers=headers)
    assert again.content == answers[0].content  # and it has replaced nothing
    assert (await get(client, generation))["status"] == "running"
    other = await client.post(url, json=recipe("pass"), headers=headers)
    assert "another body" in await refused(other, 422)
    other = await client.post(url, params={"replace": "1"}, json=recipe("pass"), headers=headers)
    assert other.status_code == 422
    assert (await client.post(url, json=recipe())).status_code == 409
    assert "Idempotency-Key" in await refused(
        await client.post(url, json=recipe(), headers={"idempotency-key": "x" * 300}), 400
    )
    await stop(client, generation)
    assert len((await listed(client, generation_id=generation))[0]) == 1
    elsewhere = new_generation()  # a key is that of one generation
    assert (await client.post(preview_url(elsewhere), json=recipe(), headers=headers)).status_code == 202
    await stop(client, elsewhere)


async def test_a_launch_that_was_stored_and_cut_short_is_brought_to_its_program_when_it_is_sent_again(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    generation = new_generation()
    headers = {"idempotency-key": new_generation("key")}
    first = await client.post(preview_url(generation), json=recipe(), headers=headers)
    await stop(client, generation)
    async with sql(tailrace.database_url) as database:  # as if the connection had broken at the commit
        await database.execute("UPDATE previews.previews SET status = 'preparing' WHERE generation_id = $1", generation)
    again = await client.post(preview_url(generation), json=recipe(), headers=headers)
    assert (again.status_code, again.content) == (202, first.content)

    async def is_running() -> bool:
        return bool((await get(client, generation))["status"] == "running")

    await eventually(is_running, "its program runs")
    await stop_again(client, generation)


async def stop_again(client: httpx.AsyncClient, generation: str) -> None:
    """Stop one whose history has an end in it that was none."""
    assert (await client.delete(preview_url(generation))).status_code == 202

    async def is_stopped() -> bool:
        return bool((await get(client, generation))["status"] == "stopped")

    await eventually(is_stopped, "it is stopped")


async def test_one_that_ends_as_it_is_stopped_comes_to_its_end(client: httpx.AsyncClient) -> None:
    """The two cross: of some that end at once, the stop is heard of in the same turn of the event loop."""

    async def once() -> None:
        generation = new_generation()
        answer = await client.post(preview_url(generation), json={**recipe(), "command": ["true"]})
        answer.raise_for_status()
        if (await client.delete(preview_url(generation))).status_code == 202:  # else it had ended, and is removed
            await ended(client, generation)

    for _ in range(5):
        await asyncio.gather(*(once() for _ in range(20)))
