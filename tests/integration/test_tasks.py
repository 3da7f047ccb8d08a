"""Tasks over HTTP: creating, listing, looking, changing, ending and deleting them. DESIGN.md 4.5 and 5."""

import asyncio
import itertools
import json
from typing import Any, get_args

import asyncpg
import httpx
import pytest
from websockets.exceptions import InvalidStatus

from services.tasks.events import TERMINAL, TaskStatus
from services.tasks.model import NEXT, TaskFields
from tests.support.contract import Frame, Served, problem_of, socket, sql
from tests.support.postgres import fresh_database
from tests.support.server import running
from tests.support.tasks import (
    IMPOSSIBLE_TASK,
    NDJSON,
    NO_SUCH_TASK,
    NO_TASK,
    TASKS,
    as_of,
    create,
    get,
    listed,
    of,
    patch,
    shown,
    snapshots,
    stream,
)

STATUSES: tuple[TaskStatus, ...] = get_args(TaskStatus)
MERGE_PATCH = {"content-type": "application/merge-patch+json"}


async def stored(client: httpx.AsyncClient, task_id: str, after: str = "start") -> list[Frame]:
    """Its stored snapshots."""
    answer = await client.get(f"{TASKS}/{task_id}/events", params={"after": after, "limit": 1000})
    answer.raise_for_status()
    return [Frame.of_json(frame) for frame in answer.json()["data"]]


async def board(client: httpx.AsyncClient, after: str) -> list[Frame]:
    """What the board has told since."""
    answer = await client.get(f"{TASKS}/events", params={"after": after, "limit": 1000})
    answer.raise_for_status()
    return [Frame.of_json(frame) for frame in answer.json()["data"]]


# ── creating ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_task_is_answered_with_its_place_its_state_and_its_etag(client: httpx.AsyncClient) -> None:
    answer = await client.post(TASKS, json={"title": "Write it"})
    assert answer.status_code == 201
    task = answer.json()
    assert answer.headers["location"] == f"{TASKS}/{task['id']}"
    assert answer.headers["etag"] == f'"{task["last_position"]}"'
    assert task["id"].startswith("task_")
    assert task["created_at"] == task["updated_at"]
    assert task["created_at"].endswith("Z")
    for name in ("id", "created_at", "updated_at", "last_position"):
        del task[name]
    assert task == {
        "tenant": "default",
        "kind": "task",
        "title": "Write it",
        "status": "queued",
        "progress": {"done": 0, "total": None, "unit": None, "message": None},
        "steps": [],
        "result": None,
        "error": None,
        "attempt": 1,
        "rev": 1,
        "run_ids": [],
        "generation_id": None,
        "preview_status": None,
    }


FULL: dict[str, Any] = {
    "title": "Ünïcödé \n☃ \u2028",
    "kind": "report/v1",
    "status": "running",
    "progress": {"done": 1.5, "total": 4, "unit": "pages", "message": "on it"},
    "steps": [{"name": "one", "status": "done", "finished_at": "2026-01-02T03:04:05Z"}, {"name": "two"}],
    "result": {"deep": [None, {"n": 1e300}], "": "\0"},
    "error": "an earlier attempt",
    "attempt": 3,
    "generation_id": "gen 1",
}


async def test_what_is_created_is_what_is_kept_told_and_shown(client: httpx.AsyncClient) -> None:
    task = await create(client, **FULL)
    filled = [
        {"message": None, "started_at": None, "finished_at": None, "status": "pending", **s} for s in FULL["steps"]
    ]
    for field, value in {**FULL, "steps": filled}.items():
        assert task[field] == value, field
    assert await get(client, task["id"]) == task
    assert (await listed(client, limit=1, status="running"))[0][0] == task
    (snapshot,) = await stored(client, task["id"])
    assert snapshot.id == task["last_position"]
    assert shown(snapshot.event) == shown(task)
    assert snapshot.event["ts"] == task["updated_at"]


@pytest.mark.parametrize("status", STATUSES)
async def test_a_task_begins_queued_or_running(client: httpx.AsyncClient, status: str) -> None:
    before = await as_of(client)
    answer = await client.post(TASKS, json={"title": "t", "status": status})
    if status in ("queued", "running"):
        assert answer.json()["status"] == status
        return
    detail = problem_of(answer, 400)["detail"]
    assert all(word in detail for word in ("queued", "running", status))
    assert await as_of(client) == before


async def test_a_body_of_another_type_is_415(client: httpx.AsyncClient) -> None:
    content = b'{"title":"t"}'
    for media_type in ("application/merge-patch+json", "text/plain", "application/json-patch+json"):
        answer = await client.post(TASKS, content=content, headers={"content-type": media_type})
        assert "application/json" in problem_of(answer, 415)["detail"]


@pytest.mark.parametrize(
    "number", [str(10**30), str(-(2**63) - 1), str(2**64), "1e400", "9" * 5000, "0." + "0" * 400 + "1"]
)
async def test_a_number_beyond_measure_is_refused_or_can_be_read_again(client: httpx.AsyncClient, number: str) -> None:
    task = await create(client)
    requests: list[tuple[str, str, dict[str, str]]] = [
        ("POST", TASKS, {"content-type": "application/json"}),
        ("POST", TASKS, {"content-type": "application/json", "idempotency-key": number[:20]}),
        ("PATCH", of(task), MERGE_PATCH),
    ]
    for method, path, headers in requests:
        for result in (number, f"[{number}]", f'{{"a":[{number}]}}'):
            before = await as_of(client)
            content = f'{{"title":"t","result":{result}}}'
            answer = await client.request(method, path, content=content, headers=headers)
            if answer.status_code == 422 and "idempotency-key" in headers:
                continue
            if answer.status_code in (200, 201):
                shown_again = await client.get(f"{TASKS}/{answer.json()['id']}")
                assert (shown_again.status_code, shown_again.json()) == (200, answer.json())
            else:
                problem_of(answer, 400)
                assert await as_of(client) == before
    assert (await client.get(TASKS)).status_code == 200


# ── idempotency ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_creation_sent_again_gets_the_first_answer_again(client: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "again"}
    first = await client.post(TASKS, json={"title": "once"}, headers=key)
    await patch(client, first.json()["id"], title="changed meanwhile")
    head = await as_of(client)
    again = await client.post(TASKS, json={"title": "once", "status": "queued"}, headers=key)  # the default, said
    assert (again.status_code, again.content) == (201, first.content)
    for name in ("location", "etag"):
        assert again.headers[name] == first.headers[name]
    assert await as_of(client) == head


async def test_a_key_that_was_used_with_another_body_is_422(client: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "other"}
    await client.post(TASKS, json={"title": "one"}, headers=key)
    head = await as_of(client)
    assert "new key" in problem_of(await client.post(TASKS, json={"title": "two"}, headers=key), 422)["detail"]
    assert await as_of(client) == head


async def test_the_same_creation_sent_many_times_at_once_is_one_task(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        running(url) as one,
        running(url) as two,
        httpx.AsyncClient(base_url=one.url, timeout=30) as here,
        httpx.AsyncClient(base_url=two.url, timeout=30) as there,
    ):
        key = {"idempotency-key": "at once"}
        body = {"title": "once"}
        sent = [client.post(TASKS, json=body, headers=key) for _ in range(10) for client in (here, there)]
        answers = await asyncio.gather(*sent)
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        assert len((await listed(here))[0]) == 1
        assert (await as_of(there))[1] == 1


async def test_a_key_that_is_no_key_is_400(client: httpx.AsyncClient) -> None:
    for key in (b"", b"x" * 256, b"a\tb", b"\x80"):
        answer = await client.post(TASKS, json={"title": "t"}, headers=[(b"idempotency-key", key)])
        assert "Idempotency-Key" in problem_of(answer, 400)["detail"]


# ── listing ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_list_is_newest_first_page_by_page(client: httpx.AsyncClient) -> None:
    made = [(await create(client, kind="paged"))["id"] for _ in range(7)]
    newest_first = made[::-1]
    for limit in (1, 3, 7, 500):
        tasks, _ = await listed(client, kind="paged", limit=limit)
        assert [task["id"] for task in tasks] == newest_first
    page = (await client.get(TASKS, params={"kind": "paged", "limit": 3})).json()
    assert page["next_cursor"] == newest_first[2]
    # what is made meanwhile does not move the pages that follow
    await create(client, kind="paged")
    page = (await client.get(TASKS, params={"kind": "paged", "limit": 3, "cursor": page["next_cursor"]})).json()
    assert [task["id"] for task in page["data"]] == newest_first[3:6]


async def test_a_list_is_narrowed_by_each_field_and_by_several(client: httpx.AsyncClient) -> None:
    first = await create(client, kind="narrow", status="running", generation_id="g1")
    second = await create(client, kind="narrow", status="queued", generation_id="g1")
    third = await create(client, kind="narrow", status="running", generation_id="g2")
    for params, expected in (
        ({"kind": "narrow"}, [third, second, first]),
        ({"kind": "narrow", "status": "running"}, [third, first]),
        ({"generation_id": "g1"}, [second, first]),
        ({"kind": "narrow", "status": "running", "generation_id": "g1"}, [first]),
        ({"kind": "nobody's"}, []),
        ({"kind": "' OR 1=1 --"}, []),
    ):
        assert (await listed(client, **params))[0] == expected, params
    await patch(client, first["id"], status="succeeded")
    assert first["id"] not in str((await listed(client, kind="narrow", status="running"))[0])


async def test_an_empty_list_has_an_as_of_too(client: httpx.AsyncClient) -> None:
    page = (await client.get(TASKS, params={"kind": "empty"})).json()
    epoch, head = await as_of(client)
    assert page == {"data": [], "next_cursor": None, "as_of": f"{epoch}-{head}"}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("cursor=run_01jzzzzzzzzzzzzzzzzzzzzzzz", "cursor"),
        ("cursor=", "cursor"),
        ("status=done", "waiting_input"),
        ("kind=a%00", "kind"),
        ("owner=local", "'owner'"),
        ("kind=a&kind=b", "kind"),
    ],
)
async def test_a_list_that_is_asked_for_wrongly_is_400_and_named(
    client: httpx.AsyncClient, query: str, named: str
) -> None:
    assert named in problem_of(await client.get(f"{TASKS}?{query}"), 400)["detail"]


async def test_who_lists_and_follows_from_there_loses_and_doubles_nothing_under_load(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    stop = asyncio.Event()

    async def work() -> None:
        for turn in itertools.count():
            if stop.is_set():
                return
            task = await create(client, kind="load")
            await patch(client, task["id"], progress={"done": 1})
            if turn % 3 == 0:
                (await client.delete(of(task))).raise_for_status()
            else:
                await patch(client, task["id"], progress={"done": 2})

    async def follow() -> None:
        tasks, position = await listed(client, kind="load", limit=20)
        revs = {task["id"]: task["rev"] for task in tasks}
        at = int(position.rpartition("-")[2])
        async with stream(tailrace.url, "sse", TASKS, after=position) as opened:
            frames = await opened.until(lambda frame: frame.seq >= at + 30)
        told = [frame for frame in frames if frame.type in ("snapshot", "deleted")]
        seqs = [frame.seq for frame in told]
        assert seqs == sorted(set(seqs))
        assert seqs[0] > at
        for frame in snapshots(told):
            task_id, rev = frame.event["task_id"], frame.event["rev"]
            # the first page is as of that moment; later pages may know more, never less
            assert revs.get(task_id, 0) >= rev - 1
            revs[task_id] = max(rev, revs.get(task_id, 0))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work())
        for _ in range(4):
            await asyncio.gather(*(follow() for _ in range(3)))
        stop.set()


async def test_a_pages_rows_and_its_as_of_are_of_one_moment(client: httpx.AsyncClient) -> None:
    task = await create(client, kind="moment")
    stop = asyncio.Event()

    async def change() -> None:
        for done in itertools.count(1):
            if stop.is_set():
                return
            await patch(client, task["id"], progress={"done": done})

    changing = asyncio.create_task(change())
    for _ in range(50):
        page = (await client.get(TASKS, params={"kind": "moment"})).json()
        (row,) = page["data"]
        later = await stored(client, task["id"], after=page["as_of"])
        # nothing between the row and as_of, nothing missing after it
        assert int(row["last_position"].rpartition("-")[2]) <= int(page["as_of"].rpartition("-")[2])
        assert [frame.event["rev"] for frame in later] == list(range(row["rev"] + 1, row["rev"] + 1 + len(later)))
    stop.set()
    await changing


# ── looking ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_has_the_newest_state_gets_304(client: httpx.AsyncClient) -> None:
    task = await create(client)
    etag = (await client.get(of(task))).headers["etag"]
    assert etag == f'"{task["last_position"]}"'
    for known in (etag, f"W/{etag}", "*", f'"other", {etag}', f'W/"other",W/{etag}', f"{etag},"):
        answer = await client.get(of(task), headers={"if-none-match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag), known
    for other in ('"other"', 'W/"other"', etag.strip('"'), "", '"', '""', f'"{etag}'):
        assert (await client.get(of(task), headers={"if-none-match": other})).status_code == 200, other
    changed = await patch(client, task["id"], title="new")
    answer = await client.get(of(task), headers={"if-none-match": etag})
    assert (answer.status_code, answer.json()) == (200, changed)


# ── changing ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_patch_merges_what_is_nested_and_null_brings_back_the_default(client: httpx.AsyncClient) -> None:
    task = await create(client, **FULL)
    task = await patch(client, task["id"], progress={"done": 2, "message": None}, result={"deep": {"x": 1}})
    assert task["progress"] == {"done": 2, "total": 4, "unit": "pages", "message": None}
    assert task["result"] == {"deep": {"x": 1}, "": "\0"}
    assert (task["rev"], task["title"]) == (2, FULL["title"])
    task = await patch(client, task["id"], progress=None, steps=None, result=None, error=None, kind=None, attempt=None)
    assert task["progress"] == {"done": 0, "total": None, "unit": None, "message": None}
    assert [task[name] for name in ("steps", "result", "error", "kind", "attempt")] == [[], None, None, "task", 1]
    assert (await get(client, task["id"])) == task
    assert [frame.event["rev"] for frame in await stored(client, task["id"])] == [1, 2, 3]


@pytest.mark.parametrize("media_type", ["application/merge-patch+json", "application/json", "APPLICATION/JSON; x=y"])
async def test_a_merge_patch_may_call_itself_json(client: httpx.AsyncClient, media_type: str) -> None:
    task = await create(client)
    answer = await client.patch(of(task), content=b'{"title":"new"}', headers={"content-type": media_type})
    assert (answer.status_code, answer.json()["title"]) == (200, "new")
    assert answer.headers["etag"] == f'"{answer.json()["last_position"]}"'


@pytest.mark.parametrize("media_type", ["application/json-patch+json", "text/plain", "application/msgpack", ""])
async def test_a_patch_of_another_type_is_415_naming_both(client: httpx.AsyncClient, media_type: str) -> None:
    task = await create(client)
    answer = await client.patch(of(task), content=b'{"title":"new"}', headers={"content-type": media_type})
    detail = problem_of(answer, 415)["detail"]
    assert "application/merge-patch+json" in detail
    assert "application/json" in detail
    assert await get(client, task["id"]) == task


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"null", b"[]", b'"text"', b"5", b"{", b'{"title":"x"}{}', b"\xff"),
        *(b'{"title":"\xff"}', b'{"result":["\xed\xa0\x80"]}', b'{"\xff":1}', b'{"result":"\\ud800"}'),
    ],
)
async def test_a_patch_that_is_no_object_is_400_and_stores_nothing(client: httpx.AsyncClient, content: bytes) -> None:
    task = await create(client)
    problem_of(await client.patch(of(task), content=content, headers=MERGE_PATCH), 400)
    assert await get(client, task["id"]) == task


@pytest.mark.parametrize("field", ["colour", "id", "rev", "tenant", "owner", "run_ids", "stops_runs", "last_seq"])
async def test_a_field_one_cannot_set_is_400_naming_those_one_can(client: httpx.AsyncClient, field: str) -> None:
    task = await create(client)
    detail = problem_of(await client.patch(of(task), json={"title": "new", field: None}), 400)["detail"]
    assert repr(field) in detail
    assert all(name in detail for name in TaskFields.__struct_fields__)
    assert await get(client, task["id"]) == task


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": None},
        {"title": 5},
        {"status": "done"},
        {"progress": {"done": "half"}},
        {"progress": {"colour": 1}},
        {"steps": [{"name": ""}]},
        {"attempt": 0},
        {"kind": "a b"},
    ],
)
async def test_a_wrong_value_is_400_and_stores_nothing_of_the_patch(
    client: httpx.AsyncClient, wrong: dict[str, Any]
) -> None:
    task = await create(client)
    head = await as_of(client)
    body = {"error": "this must not stay", **wrong}
    detail = problem_of(await client.patch(of(task), json=body), 400)["detail"]
    assert next(iter(wrong)) in detail
    assert await get(client, task["id"]) == task
    assert await as_of(client) == head


async def test_a_patch_that_changes_nothing_stores_and_tells_nothing(client: httpx.AsyncClient) -> None:
    task = await create(client, **FULL)
    head = await as_of(client)
    for same in ({}, {"title": FULL["title"]}, {"progress": {"done": 1.5}}, FULL, {"result": {"absent": None}}):
        assert await patch(client, task["id"], **same) == task
    assert await as_of(client) == head


async def test_true_is_not_one(client: httpx.AsyncClient) -> None:
    task = await create(client, result={"a": [1, 0]})
    for rev, result in enumerate(({"a": [True, 0]}, {"a": [True, False]}, {"a": [1, False]}, {"a": 1}, {"a": True}), 2):
        changed = await patch(client, task["id"], result=result)
        assert json.dumps(changed["result"]) == json.dumps(result)
        assert changed["rev"] == rev


async def test_who_would_change_what_they_have_not_seen_is_told_the_present_etag(client: httpx.AsyncClient) -> None:
    task = await create(client)
    old = f'"{task["last_position"]}"'
    changed = await client.patch(of(task), json={"title": "theirs"}, headers={"if-match": old})
    assert changed.status_code == 200
    present = changed.headers["etag"]
    assert present != old
    head = await as_of(client)
    for stale in (old, '"other"', f"W/{present}", f"{old}, W/{present}", present.strip('"'), ""):
        for method, path, body in (
            ("PATCH", of(task), {"title": "mine"}),
            ("PATCH", of(task), {}),
            ("POST", f"{of(task)}/cancel", None),
            ("DELETE", of(task), None),
        ):
            answer = await client.request(method, path, json=body, headers={"if-match": stale})
            assert present in problem_of(answer, 412)["detail"], (stale, method)
    assert await as_of(client) == head
    for fine in (present, "*", f'"other", {present}', f"W/{old}, {present}"):
        answer = await client.patch(of(task), json={"title": "theirs"}, headers={"if-match": fine})
        assert answer.status_code == 200, fine
    answer = await client.request("DELETE", of(task), headers={"if-match": present})
    assert answer.status_code == 204


async def test_of_many_changes_of_one_state_exactly_one_wins(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        running(url) as one,
        running(url) as two,
        httpx.AsyncClient(base_url=one.url, timeout=30) as here,
        httpx.AsyncClient(base_url=two.url, timeout=30) as there,
    ):
        task = await create(here)
        for rev in range(2, 6):
            etag = {"if-match": f'"{task["last_position"]}"'}
            sent = [
                client.patch(of(task), json={"title": f"{rev} {number}"}, headers=etag)
                for number in range(8)
                for client in (here, there)
            ]
            answers = await asyncio.gather(*sent)
            statuses = sorted(answer.status_code for answer in answers)
            assert statuses == [200, *[412] * 15]
            (won,) = [answer.json() for answer in answers if answer.status_code == 200]
            assert won["rev"] == rev
            task = await get(there, task["id"])
            assert task == won
            assert all(won["last_position"] in a.json()["detail"] for a in answers if a.status_code == 412)


async def test_changes_without_a_condition_all_happen_one_after_another(client: httpx.AsyncClient) -> None:
    task = await create(client, result={})
    await asyncio.gather(*(patch(client, task["id"], result={str(number): number}) for number in range(20)))
    after = await get(client, task["id"])
    assert after["rev"] == 21
    assert after["result"] == {str(number): number for number in range(20)}
    frames = await stored(client, task["id"])
    assert [frame.event["rev"] for frame in frames] == list(range(1, 22))
    assert [len(frame.event["result"]) for frame in frames] == list(range(21))


@pytest.mark.parametrize(("before", "after"), [(b, a) for b in STATUSES for a in STATUSES])
async def test_a_move_is_made_or_409_with_the_status_as_it_is(
    client: httpx.AsyncClient, before: TaskStatus, after: TaskStatus
) -> None:
    task = await create(client)
    if before != "queued":
        task = await patch(client, task["id"], status=before)
    head = await as_of(client)
    answer = await client.patch(of(task), json={"status": after, "error": "e"})
    if after in NEXT[before] or (after == before and before not in TERMINAL):
        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["error"]) == (after, "e")
        return
    problem = problem_of(answer, 409)
    assert problem["task_status"] == before
    assert before in problem["detail"]
    assert await get(client, task["id"]) == task
    assert await as_of(client) == head


@pytest.mark.parametrize("status", sorted(TERMINAL))
async def test_a_task_that_has_ended_stays_as_it_is(client: httpx.AsyncClient, status: str) -> None:
    task = await create(client, result={"a": 1})
    task = await patch(client, task["id"], status=status)
    for change in ({"title": "new"}, {"result": {"b": 2}}, {"status": "running"}, {"status": None}, {"attempt": 2}):
        assert problem_of(await client.patch(of(task), json=change), 409)["task_status"] == status
    assert await patch(client, task["id"], status=status, result={"a": 1}) == task  # that changes nothing
    assert await get(client, task["id"]) == task


async def test_a_state_too_large_for_an_event_is_413_and_nothing_is_stored(client: httpx.AsyncClient) -> None:
    task = await create(client)
    head = await as_of(client)
    large = "x" * 300_000
    answers = [
        await client.post(TASKS, json={"title": "t", "result": large}),
        await client.post(TASKS, json={"title": "t", "result": large}, headers={"idempotency-key": "large"}),
        await client.patch(of(task), json={"result": large}),
        await client.patch(of(task), json={"result": large, "status": "succeeded"}),
    ]
    for answer in answers:
        assert "bytes" in problem_of(answer, 413)["detail"]
    assert await as_of(client) == head
    assert await get(client, task["id"]) == task
    # the key was not used up
    answer = await client.post(TASKS, json={"title": "small"}, headers={"idempotency-key": "large"})
    assert answer.status_code == 201
    # and small ones that come together with large ones are none the worse
    sizes = [300_000 if number % 3 == 0 else 10 for number in range(12)]
    answers = await asyncio.gather(*(client.post(TASKS, json={"title": "t", "result": "x" * size}) for size in sizes))
    assert [answer.status_code for answer in answers] == [413 if size > 10 else 201 for size in sizes]


# ── the database's own check ───────────────────────────────────────────────────────────────────────────────────


async def test_the_database_allows_exactly_the_moves_that_the_service_knows(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task = await create(client)
    allowed: dict[str, set[str]] = {status: set() for status in STATUSES}
    refused: dict[tuple[str, str], str] = {}
    async with sql(tailrace.database_url) as database:
        for before, after in itertools.product(STATUSES, repeat=2):
            transaction = database.transaction()
            await transaction.start()
            await database.execute("ALTER TABLE tasks.tasks DISABLE TRIGGER check_move")
            await database.execute("UPDATE tasks.tasks SET status = $1 WHERE id = $2", before, task["id"])
            await database.execute("ALTER TABLE tasks.tasks ENABLE TRIGGER check_move")
            try:
                async with database.transaction():
                    await database.execute("UPDATE tasks.tasks SET status = $1 WHERE id = $2", after, task["id"])
                allowed[before].add(after)
            except asyncpg.CheckViolationError as error:
                refused[before, after] = str(error)
            await transaction.rollback()
    assert {before: after - {before} for before, after in allowed.items()} == NEXT
    assert all(before in after for before, after in allowed.items())  # to stay is not to move
    assert refused == {
        (before, after): f"a task that is {before} cannot become {after}"
        for before, after in itertools.product(STATUSES, repeat=2)
        if after not in allowed[before]
    }


async def test_a_status_that_there_is_not_is_refused_by_the_database(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task = await create(client)
    async with sql(tailrace.database_url) as database:
        for status in ("done", "", "QUEUED"):
            with pytest.raises(asyncpg.CheckViolationError):
                await database.execute("UPDATE tasks.tasks SET status = $1 WHERE id = $2", status, task["id"])


async def test_a_move_made_past_the_service_is_known_to_the_next_change(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    task = await create(client, status="running")
    async with sql(tailrace.database_url) as database:
        await database.execute("UPDATE tasks.tasks SET status = 'failed' WHERE id = $1", task["id"])
    assert problem_of(await client.patch(of(task), json={"status": "succeeded"}), 409)["task_status"] == "failed"
    assert problem_of(await client.post(f"{of(task)}/cancel"), 409)["task_status"] == "failed"


# ── cancelling ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_cancelling_twice_is_harmless(client: httpx.AsyncClient) -> None:
    task = await create(client, status="running", result="kept")
    first = await client.post(f"{of(task)}/cancel")
    assert (first.status_code, first.json()["status"], first.json()["result"]) == (200, "cancelled", "kept")
    assert first.headers["etag"] == f'"{first.json()["last_position"]}"'
    head = await as_of(client)
    again = await client.post(f"{of(task)}/cancel")
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["etag"] == first.headers["etag"]
    assert await as_of(client) == head
    answers = await asyncio.gather(*(client.post(f"{of(task)}/cancel") for _ in range(5)))
    assert {answer.content for answer in answers} == {first.content}


@pytest.mark.parametrize("status", ["succeeded", "failed"])
async def test_cancelling_after_another_end_is_409(client: httpx.AsyncClient, status: str) -> None:
    task = await patch(client, (await create(client))["id"], status=status)
    assert problem_of(await client.post(f"{of(task)}/cancel"), 409)["task_status"] == status
    assert await get(client, task["id"]) == task


async def test_a_cancel_and_an_end_at_the_same_time_leave_one_of_them(client: httpx.AsyncClient) -> None:
    for _ in range(10):
        task = await create(client, status="running")
        ended, cancelled = await asyncio.gather(
            client.patch(of(task), json={"status": "succeeded"}), client.post(f"{of(task)}/cancel")
        )
        assert sorted((ended.status_code, cancelled.status_code)) == [200, 409]
        after = await get(client, task["id"])
        assert after["status"] == ("succeeded" if ended.status_code == 200 else "cancelled")
        assert [frame.event["rev"] for frame in await stored(client, task["id"])] == [1, 2]


# ── deleting ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_deleted_task_is_gone_from_every_read(client: httpx.AsyncClient, tailrace: Served) -> None:
    epoch, head = await as_of(client)
    position = f"{epoch}-{head}"
    task = await create(client, kind="deleted", result="the secret")
    kept = await create(client, kind="deleted", result="no secret")
    await patch(client, task["id"], result="the secret, again")
    answer = await client.delete(of(task))
    assert (answer.status_code, answer.content) == (204, b"")
    frames = await board(client, position)
    assert [(f.type, f.event.get("task_id")) for f in frames] == [("snapshot", kept["id"]), ("deleted", task["id"])]
    assert frames[-1].event.keys() == {"type", "tenant", "ts", "task_id"}
    reads = [
        (await client.get(TASKS, params={"kind": "deleted"})).text,
        (await client.get(f"{TASKS}/events", params={"after": position})).text,
        (await client.get(f"{TASKS}/events", params={"after": position}, headers=NDJSON)).text,
        (await client.get(f"{TASKS}/events", params={"after": "zzzzzz-1", "on_reset": "reset"})).text,
    ]
    async with stream(tailrace.url, "sse", TASKS, after=position) as opened:
        reads.append(str(await opened.until_type("live")))
    async with stream(tailrace.url, "tailrace.v1", TASKS, after="zzzzzz-1") as opened:
        reads.append(str(await opened.until_type("live")))
    for read in reads:
        assert "the secret" not in read
        assert "no secret" in read
    async with sql(tailrace.database_url) as database:
        assert await database.fetchval("SELECT count(*) FROM tasks.tasks WHERE id = $1", task["id"]) == 0
        subject = f"task/{task['id']}"
        types = await database.fetch("SELECT type FROM tasks.events WHERE subject = $1", subject)
    assert [row["type"] for row in types] == ["deleted"]


# ── what there is not ──────────────────────────────────────────────────────────────────────────────────────────

OPERATIONS: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("PATCH", "", {"title": "mine"}),
    ("PATCH", "", {}),
    ("DELETE", "", None),
    ("POST", "/cancel", None),
    ("GET", "/stream", None),
    ("GET", "/stream?after=start", None),
    ("GET", "/stream?after=zzzzzz-1&on_reset=error", None),
    ("GET", "/events", None),
    ("GET", "/events?after=zzzzzz-1", None),
    ("GET", "/events?wait=5", None),
]


async def others_task(database_url: str, client: httpx.AsyncClient) -> str:
    """A task of another tenant, with its snapshot."""
    task_id: str = (await create(client, result="the other's secret"))["id"]
    async with sql(database_url) as database:
        await database.execute("UPDATE tasks.tasks SET tenant = 'other' WHERE id = $1", task_id)
        await database.execute("UPDATE tasks.events SET tenant = 'other' WHERE subject = $1", f"task/{task_id}")
    return task_id


@pytest.mark.parametrize(("method", "suffix", "body"), OPERATIONS)
async def test_a_task_that_there_is_not_is_404_in_the_same_words_for_whatever_reason(
    client: httpx.AsyncClient, tailrace: Served, method: str, suffix: str, body: Any
) -> None:
    deleted = await create(client)
    await client.delete(of(deleted))
    theirs = await others_task(tailrace.database_url, client)
    strange = (IMPOSSIBLE_TASK, "task_%00", "run_01jzzzzzzzzzzzzzzzzzzzzzzz", "%F0%9F%90%99", NO_SUCH_TASK.upper())
    problems = []
    for task_id in (NO_SUCH_TASK, deleted["id"], theirs, *strange):
        answer = await client.request(method, f"{TASKS}/{task_id}{suffix}", json=body, headers={"x-request-id": "same"})
        problem_of(answer, 404)
        problems.append((answer.content, {n: v for n, v in answer.headers.items() if n != "date"}))
    assert all(problem == problems[0] for problem in problems)
    assert json.loads(problems[0][0])["detail"] == NO_TASK
    if method in ("PATCH", "POST", "DELETE"):  # If-Match tells nothing either
        answer = await client.request(method, f"{TASKS}/{theirs}{suffix}", json=body, headers={"if-match": '"x"'})
        assert problem_of(answer, 404)["detail"] == NO_TASK
    async with sql(tailrace.database_url) as database:
        assert await database.fetchval("SELECT title FROM tasks.tasks WHERE id = $1", theirs) == "t"


async def test_a_socket_for_a_task_that_there_is_not_is_refused_in_the_same_words(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    theirs = await others_task(tailrace.database_url, client)
    async with socket(f"{tailrace.websocket_url}{TASKS}/ws") as shared:
        for number, task_id in enumerate((NO_SUCH_TASK, theirs, IMPOSSIBLE_TASK, "\0")):
            await shared.send({"op": "follow", "ref": str(number), "channel": f"task/{task_id}"})
            frame = await shared.next()
            assert (frame.type, frame.ref) == ("refused", str(number))
            assert (frame.event["problem"]["status"], frame.event["problem"]["detail"]) == (404, NO_TASK)
        for channel in ("", "task", "task/", "tasks/", "task/a/b", "run/x", "nothing"):
            await shared.send({"op": "follow", "ref": "x", "channel": channel})
            problem = (await shared.next()).event["problem"]
            assert problem["status"] == 400
            assert "task/<id>" in problem["detail"]
    for task_id in (NO_SUCH_TASK, theirs, IMPOSSIBLE_TASK):
        with pytest.raises(InvalidStatus) as refused:
            async with socket(f"{tailrace.websocket_url}{TASKS}/{task_id}/stream"):
                pass
        assert refused.value.response.status_code == 404
        assert json.loads(refused.value.response.body or b"")["detail"] == NO_TASK


async def test_what_is_another_tenants_is_in_no_list_and_on_no_board(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    epoch, head = await as_of(client)
    mine = await create(client, kind="tenants")
    theirs = await others_task(tailrace.database_url, client)
    for read in (
        (await client.get(TASKS, params={"limit": 500})).text,
        (await client.get(f"{TASKS}/events", params={"after": f"{epoch}-{head}"})).text,
        (await client.get(f"{TASKS}/events", params={"after": "zzzzzz-1", "on_reset": "reset", "limit": 1000})).text,
    ):
        assert theirs not in read
        assert mine["id"] in read
