"""Lists, single previews and the feed; who may see them; wrong input; how many there may be."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.support.contract import Frame, Served, sql
from tests.support.postgres import fresh_database
from tests.support.previews import (
    PREVIEWS,
    SERVE,
    get,
    launch,
    listed,
    new_generation,
    preview_url,
    python,
    recipe,
    refused,
    restart,
    running,
    socket_of,
    stop,
)
from tests.support.readers import eventually
from tests.support.runs import sse as patient_sse
from tests.support.server import running as server_running

SETTINGS = {"previews_per_tenant": 60, "preview_ttl_seconds": 600, "body_bytes": 400_000}

QUICK = "print('done')"  # fails at once, for it does not answer
ROUTES = (
    *(("GET", path) for path in ("", "/logs", "/logs/stream", "/logs/events", "/app/", "/app/x")),
    ("DELETE", ""),
    ("POST", "/restart"),
    ("PATCH", "/files"),
)


async def ask(client: httpx.AsyncClient, method: str, url: str) -> httpx.Response:
    body = {"files": {"a.txt": "a"}} if method == "PATCH" else None
    return await client.request(method, url, json=body)


async def over(client: httpx.AsyncClient, generation: str, **fields: Any) -> dict[str, Any]:
    """A preview that has ended."""
    await launch(client, generation, QUICK, **fields)

    async def is_over() -> bool:
        return bool((await get(client, generation))["status"] == "failed")

    await eventually(is_over, "it has failed")
    return await get(client, generation)


# ── lists ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_list_is_newest_first_and_complete_whatever_the_page(client: httpx.AsyncClient) -> None:
    made = [(await over(client, new_generation()))["id"] for _ in range(5)]
    for limit in (1, 2, 5, 50):
        found, _ = await listed(client, limit=limit)
        ids = [preview["id"] for preview in found]
        assert ids == sorted(ids, reverse=True)
        assert [preview_id for preview_id in ids if preview_id in made] == made[::-1]


async def test_what_a_list_shows_is_what_get_shows(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await over(client, generation, files={"a.txt": "a"}, env={"SECRET": "not shown"})
    found, _ = await listed(client, generation_id=generation)
    assert found == [await get(client, generation)]


async def test_a_list_is_narrowed_by_field(client: httpx.AsyncClient) -> None:
    failed, stopped, alive = new_generation(), new_generation(), new_generation()
    await over(client, failed)
    await running(client, stopped, files={"index.html": "x"}, kind="static", command=[])
    await stop(client, stopped)
    await running(client, alive)

    async def generations(**params: str) -> set[str]:
        ours = {failed, stopped, alive}
        return {p["generation_id"] for p in (await listed(client, **params))[0]} & ours

    assert await generations() == {failed, stopped, alive}
    assert await generations(status="failed") == {failed}
    assert await generations(status="running") == {alive}
    assert await generations(kind="static") == {stopped}
    assert await generations(kind="command", status="stopped") == set()
    assert await generations(generation_id=alive) == {alive}
    assert await generations(generation_id="nobody's") == set()
    await stop(client, alive)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("status=done", "running"),
        ("kind=ruby", "asgi"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("cursor=run_01", "next_cursor"),
        ("session_id=s", "generation_id"),
        ("generation_id=%00", "generation_id"),
    ],
)
async def test_a_wrong_question_to_the_list_is_400(client: httpx.AsyncClient, query: str, named: str) -> None:
    assert named in await refused(await client.get(f"{PREVIEWS}?{query}"), 400)


# ── one ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_etag_changes_with_the_status_and_is_answered_304_until_then(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation)
    url = preview_url(generation)
    answer = await client.get(url)
    etag = answer.headers["etag"]
    same = await client.get(url, headers={"if-none-match": etag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert (await client.get(url, headers={"if-none-match": '"other"'})).status_code == 200
    changed = await client.patch(f"{url}/files", json={"files": {"new.txt": "x"}})
    assert changed.json()["files"] == ["new.txt"]
    answer = await client.get(url, headers={"if-none-match": etag})
    assert (answer.status_code, answer.json()["files"]) == (200, ["new.txt"])  # it shows the names of its files
    await stop(client, generation)
    answer = await client.get(url, headers={"if-none-match": answer.headers["etag"]})
    assert (answer.status_code, answer.json()["status"]) == (200, "stopped")


# ── the feed ───────────────────────────────────────────────────────────────────────────────────────────────────


def frame_of(message: Any) -> Frame:
    return Frame.of_sse(message)


async def test_the_feed_tells_every_status_of_every_preview_from_now_on(client: httpx.AsyncClient) -> None:
    before = await over(client, new_generation())
    generation = new_generation()
    async with patient_sse(client, f"{PREVIEWS}/stream") as stream:
        opened = [frame_of(m) for m in await stream.until(lambda m: m.event == "live")]
        assert [frame.type for frame in opened] == ["hello", "live"]
        preview = await running(client, generation)
        last = (await stop(client, generation))["last_position"]
        seen = [frame_of(m) for m in await stream.until(lambda m: m.id == last)]
    ours = [frame.event for frame in seen if frame.type == "preview_status"]
    told = [event["status"] for event in ours if event["preview_id"] == preview["id"]]
    assert told == ["preparing", "starting", "running", "stopping", "stopped"]
    assert before["id"] not in {event["preview_id"] for event in ours}
    assert not {"log", "ready"} & {frame.type for frame in seen}


async def test_the_feed_after_a_list_loses_nothing(client: httpx.AsyncClient) -> None:
    """The list at any moment, and the feed from its `as_of`, are together what there is in the end."""

    async def lives(generation: str) -> None:
        await launch(client, generation, QUICK)

    generations = [new_generation("feed") for _ in range(8)]
    async with asyncio.TaskGroup() as tasks:
        for generation in generations:
            tasks.create_task(lives(generation))
        pages = [await listed(client, limit=3) for _ in range(6)]
    for found, as_of in pages:
        known = {p["generation_id"]: (p["status"], p["last_position"]) for p in found}
        async with patient_sse(client, f"{PREVIEWS}/stream", params={"after": as_of}) as stream:
            while any(known.get(generation, ("", ""))[0] != "failed" for generation in generations):
                message = (await stream.until(lambda m: m.event == "preview_status"))[-1]
                event = json.loads(message.data)
                of = event["generation_id"]
                if of not in known or seq_of(message.id) > seq_of(known[of][1]):  # later pages are newer than as_of
                    known[of] = event["status"], message.id


def seq_of(position: str) -> int:
    return int(position.rpartition("-")[2])


@pytest.mark.parametrize("transport", ["sse", "channels"])
async def test_a_reset_of_the_feed_is_followed_by_all_current_ones(
    client: httpx.AsyncClient, tailrace: Served, transport: str
) -> None:
    generation = new_generation()
    await running(client, generation)
    await over(client, new_generation())
    found, as_of = await listed(client)
    current = {preview["id"]: preview["status"] for preview in found}
    if transport == "sse":
        async with patient_sse(client, f"{PREVIEWS}/stream", params={"after": "elsewhere-1"}) as stream:
            frames = [frame_of(m) for m in await stream.until(lambda m: m.event == "live")]
    else:
        async with socket_of(tailrace.url, "channels", "x") as opened:
            await opened.send({"op": "follow", "ref": "feed", "channel": "previews", "after": "elsewhere-1"})
            frames = [f for f in await opened.until_type("live", "feed") if f.ref == "feed"]
    assert [frame.type for frame in frames[:2]] == ["hello", "reset"]
    told = [frame.event for frame in frames if frame.type == "preview_status"]
    assert {event["preview_id"]: event["status"] for event in told} == current
    assert len(told) == len(current)
    shown = {preview["id"]: preview for preview in found}
    for frame in frames:
        if frame.type == "preview_status":
            preview = shown[frame.event["preview_id"]]
            assert frame.id == preview["last_position"]
            same = ("generation_id", "kind", "attempt", "isolation", "url")
            assert {name: frame.event[name] for name in same} == {name: preview[name] for name in same}
            assert frame.event.get("exit") == preview["exit"]
            assert frame.event.get("message") == preview["message"]
    assert seq_of(str(frames[-1].id)) >= seq_of(as_of)
    await stop(client, generation)


async def test_the_feed_can_be_polled(client: httpx.AsyncClient) -> None:
    _, as_of = await listed(client)
    preview = await over(client, new_generation())
    page = (await client.get(f"{PREVIEWS}/events", params={"after": as_of})).json()
    told = [f["event"] for f in page["data"] if f["event"]["preview_id"] == preview["id"]]
    assert [event["status"] for event in told][-1] == "failed"
    assert page["ended"] is None


# ── whose they are ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_preview_of_another_tenant_is_404_in_the_same_words_everywhere(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    theirs = new_generation("theirs")
    preview = await over(client, theirs)
    async with sql(tailrace.database_url) as database:
        await database.execute("UPDATE previews.previews SET tenant = 'other' WHERE id = $1", preview["id"])
        await database.execute(
            "UPDATE previews.events SET tenant = 'other' WHERE subject = $1", f"preview/{preview['id']}"
        )
    unknown = new_generation("unknown")
    for method, path in ROUTES:
        said = {
            await refused(await ask(client, method, preview_url(generation) + path), 404)
            for generation in (theirs, unknown, "x" * 300, "a\x00b")
        }
        assert said == {"There is no such preview."}, (method, path)
    for generation in (theirs, unknown):
        async with socket_of(tailrace.url, "channels", generation) as opened:
            refusal = (await opened.until_type("refused", "mine"))[-1]
            assert refusal.event["problem"]["detail"] == "There is no such preview."
    assert preview["id"] not in {shown["id"] for shown in (await listed(client))[0]}
    page = (await client.get(f"{PREVIEWS}/events", params={"after": "start", "limit": 1000})).json()
    assert preview["id"] not in {frame["event"]["preview_id"] for frame in page["data"]}
    mine = await launch(client, theirs)  # the same name is another generation here
    assert mine["id"] != preview["id"]
    await stop(client, theirs)


@pytest.mark.parametrize("generation", ["x" * 201, "a%00b", "a%0Ab", "a%2Fb"])
async def test_an_impossible_generation_is_400_at_launch_and_404_elsewhere(
    client: httpx.AsyncClient, generation: str
) -> None:
    url = f"/api/v1/generations/{generation}/preview"
    assert (await client.post(url, json=recipe())).status_code in (400, 404)
    for method, path in ROUTES:
        assert (await ask(client, method, url + path)).status_code == 404


# ── wrong input ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"kind": "ruby"}, "kind"),
        ({"kind": "asgi", "entry": "main"}, "main:app"),
        ({"kind": "asgi", "entry": "main:app; import os"}, "main:app"),
        ({"kind": "wsgi", "entry": ""}, "main:app"),
        ({"kind": "node", "entry": ""}, "server.js"),
        ({"kind": "node", "entry": "../x.js"}, "path"),
        ({"kind": "static", "entry": "/etc"}, "path"),
        ({"kind": "static", "entry": "a/../../b"}, "path"),
        ({"command": []}, "command"),
        ({"command": [""]}, "command"),
        ({"command": ["a\0b"]}, "command"),
        ({"command": "ls"}, "command"),
        ({"command": ["x" * 4_096] * 20}, "bytes"),
        ({"env": {"A B": "x"}}, "variable"),
        ({"env": {"1A": "x"}}, "variable"),
        ({"env": {"": "x"}}, "variable"),
        ({"env": {"A=B": "x"}}, "variable"),
        ({"env": {"PORT": "80"}}, "PORT"),
        ({"env": {"LISTEN_FDS": "2"}}, "LISTEN_FDS"),
        ({"env": {"TAILRACE_PREVIEW": "x"}}, "TAILRACE_PREVIEW"),
        ({"env": {"A": "x\0"}}, "env"),
        ({"env": {"A": 1}}, "env"),
        ({"env": {f"A{n}": "x" * 4_000 for n in range(20)}}, "bytes"),
        ({"health": {"path": "health"}}, "path"),
        ({"health": {"path": "/a b"}}, "path"),
        ({"health": {"path": "/a\r\nx: y"}}, "path"),
        ({"health": {"timeout_seconds": 0}}, "timeout_seconds"),
        ({"health": {"timeout_seconds": 601}}, "timeout_seconds"),
        ({"health": {"port": 80}}, "port"),
        ({"ttl_seconds": 0}, "ttl_seconds"),
        ({"ttl_seconds": -1}, "ttl_seconds"),
        ({"ttl_seconds": 601}, "600"),
        ({"network": "yes"}, "network"),
        ({"files": {"a": 1}}, "files"),
        ({"files": []}, "files"),
        ({"files": {"a": "\ud800"}}, ""),
        ({"files": {"\ud800": "a"}}, ""),
        ({"colour": "blue"}, "colour"),
    ],
)
async def test_wrong_input_is_400_naming_the_fault_and_nothing_is_launched(
    client: httpx.AsyncClient, wrong: dict[str, Any], named: str
) -> None:
    generation = new_generation("wrong")
    body = json.dumps({**recipe(), **wrong})
    answer = await client.post(preview_url(generation), content=body, headers={"content-type": "application/json"})
    assert named in await refused(answer, 400)
    assert (await client.get(preview_url(generation))).status_code == 404


@pytest.mark.parametrize("missing", ["files", "kind"])
async def test_a_missing_field_is_400(client: httpx.AsyncClient, missing: str) -> None:
    body = {name: value for name, value in recipe().items() if name != missing}
    assert missing in await refused(await client.post(preview_url(new_generation()), json=body), 400)


async def test_wrong_parameters_and_methods_are_refused(client: httpx.AsyncClient) -> None:
    url = preview_url(new_generation())
    assert "replace" in await refused(await client.post(f"{url}?replace=maybe", json=recipe()), 400)
    assert "colour" in await refused(await client.post(f"{url}?colour=blue", json=recipe()), 400)
    assert (await client.put(url, json=recipe())).status_code == 405
    assert (await client.post(url, content=b"{}", headers={"content-type": "text/plain"})).status_code == 415
    answer = await client.post(url, json=recipe(files={"a": "x" * 500_000}))
    assert answer.status_code == 413


async def test_replacing_by_what_cannot_be_taken_leaves_the_old_one_alone(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    old = await running(client, generation)
    url = f"{preview_url(generation)}?replace=true"
    for wrong in ({"files": {"../x": "x"}}, {"kind": "asgi", "entry": "x"}, {"ttl_seconds": 100_000}):
        assert (await client.post(url, json={**recipe(), **wrong})).status_code == 400
    assert await get(client, generation) == old
    await stop(client, generation)


# ── how many ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_tenant_may_have_so_many_at_once_however_they_are_started(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        server_running(url, service="previews", previews_per_tenant=2) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        ended = new_generation()
        await running(client, ended)
        await stop(client, ended)
        first, second, third = (new_generation() for _ in range(3))
        await running(client, first)
        answers = await asyncio.gather(*(client.post(preview_url(g), json=recipe()) for g in (second, third)))
        assert sorted(answer.status_code for answer in answers) == [202, 429]
        busy = next(answer for answer in answers if answer.status_code == 429)
        assert "2 previews" in await refused(busy, 429)
        assert int(busy.headers["retry-after"]) > 0
        active = second if answers[0].status_code == 202 else third
        refusal = await client.post(f"{preview_url(ended)}/restart")  # it had ended, and would be one more
        assert "2 previews" in await refused(refusal, 429)
        assert (await get(client, ended))["attempt"] == 1
        assert (await client.post(f"{preview_url(first)}/restart")).status_code == 202  # it is one of the two
        assert (await client.post(f"{preview_url(first)}?replace=1", json=recipe())).status_code == 202
        await stop(client, active)
        await restart(client, ended)
        assert (await client.post(preview_url(new_generation()), json=recipe())).status_code == 429


async def test_none_is_launched_below_the_isolation_that_is_demanded(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        server_running(url, service="previews", preview_isolation="process") as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        assert (await client.get("/ready")).status_code == 200
        generation = new_generation()
        preview = await running(client, generation, SERVE)
        assert preview["isolation"] in ("bubblewrap", "uid", "process")
        assert preview["command"] == python(SERVE)
        await stop(client, generation)
