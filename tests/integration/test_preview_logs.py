"""What previews print: the live stream over every transport, the stored lines, and the download."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.support.contract import Served
from tests.support.postgres import fresh_database
from tests.support.previews import (
    SERVE,
    TRANSPORTS,
    Transport,
    download,
    ended,
    event_of,
    events_of,
    frames_to_end,
    is_line,
    is_live,
    is_status,
    launch,
    new_generation,
    page_of,
    preview_url,
    printed,
    read_to_end,
    refused,
    restart,
    running,
    socket_of,
    sse,
    statuses,
    stop,
    stored_logs,
    tell,
)
from tests.support.runs import stalling
from tests.support.server import running as server_running

SETTINGS = {"previews_per_tenant": 60, "lag_budget_bytes": 64 * 1024 * 1024}

# Every line stands for something that a search may stumble over.
LINES = """\
DEBUG: reading the map
INFO: the river is 120 km long
plain words without a level
WARNING: water is rising
ERROR: the dam's gate "B" is 100% open \\ closed
a_b and aXb
Ärger mit Größe und ß
\x1b[31mred\x1b[0m then plain
{"key": "value", "list": [1, 2]}
tab\there, emoji \U0001f30a end
"""
PRINT_LINES = f"import sys\nsys.stdout.write({LINES!r})\nsys.stdout.flush()\nprint('to the side', file=sys.stderr)"
_known: dict[str, str] = {}


async def known_lines(client: httpx.AsyncClient) -> str:
    """A preview that has printed LINES and ended: one for all tests."""
    if "lines" not in _known:
        _known["lines"] = generation = new_generation("lines")
        await launch(client, generation, PRINT_LINES)
        await ended(client, generation)
    return _known["lines"]


async def many_lines(client: httpx.AsyncClient) -> str:
    """A preview that has printed `line 0` to `line 499`, answers, and goes on."""
    if "many" not in _known:
        _known["many"] = generation = new_generation("many")
        code = SERVE.replace("status =", "for n in range(500): print('line', n)\nstatus =")
        await running(client, generation, code)
    return _known["many"]


def messages_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["message"] for event in events]


# ── the live stream ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tail", [None, 1, 10, 300])
async def test_a_stream_begins_with_the_last_lines(client: httpx.AsyncClient, tail: int | None) -> None:
    generation = await many_lines(client)
    params: dict[str, Any] = {} if tail is None else {"tail": tail}
    async with sse(client, generation, **params) as stream:
        seen = await stream.until(is_live)
    logs = events_of(seen, "log")
    assert len(logs) == (tail or 200)
    stored = await stored_logs(client, generation)
    assert logs == stored[-len(logs) :]
    assert event_of(seen[0])["resumed"] is False


async def test_no_line_of_the_past_and_all_of_them(client: httpx.AsyncClient) -> None:
    generation = await many_lines(client)
    async with sse(client, generation, tail=0) as stream:
        assert events_of(await stream.until(is_live), "log") == []
        await tell(client, generation, "print('a new one')")
        await stream.until(is_line("a new one"))
    stored = await stored_logs(client, generation)
    for params in ({"tail": 5000}, {"after": "start"}):
        async with sse(client, generation, **params) as stream:
            seen = await stream.until(is_live)
        assert events_of(seen, "log") == stored
        assert statuses(seen) == ["preparing", "starting", "running"]


async def test_a_stream_from_a_position_has_what_comes_after_it(client: httpx.AsyncClient) -> None:
    generation = await many_lines(client)
    async with sse(client, generation, after="start") as stream:
        seen = await stream.until(is_live)
    whole = [message for message in seen if event_of(message)["type"] in ("log", "preview_status", "ready")]
    for place in (0, 1, 250, len(whole) - 1):
        options: list[dict[str, Any]] = [{"after": whole[place].id}, {"headers": {"last-event-id": whole[place].id}}]
        for option in options:
            async with sse(client, generation, **option) as stream:
                seen = await stream.until(is_live)
            assert [m.id for m in seen[1 : len(whole) - place]] == [m.id for m in whole[place + 1 :]]


async def test_a_position_and_a_tail_exclude_each_other(client: httpx.AsyncClient) -> None:
    generation = await many_lines(client)
    url = f"{preview_url(generation)}/logs"
    for path in ("stream", "events"):
        answer = await client.get(f"{url}/{path}", params={"tail": 10, "after": "start"})
        assert "tail" in await refused(answer, 400)
        answer = await client.get(f"{url}/{path}", params={"tail": 10}, headers={"last-event-id": "x-1"})
        assert "tail" in await refused(answer, 400)
        for wrong in ("-1", "5001", "x", "1.5"):
            assert "tail" in await refused(await client.get(f"{url}/{path}", params={"tail": wrong}), 400)


async def test_lines_have_no_event_name_and_all_else_has(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation)
    await stop(client, generation)
    seen = await read_to_end(client, generation, after="start")
    names = {message.event for message in seen}
    assert names == {"hello", "message", "preview_status", "ready", "live", "stream_end"}
    for message in seen:
        event_of(message)  # checks it


async def test_only_what_types_names_and_the_end(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await running(client, generation)
    await stop(client, generation)
    for types, names in (("log", {"log"}), ("ready", {"ready"}), ("preview_*,ready", {"preview_status", "ready"})):
        seen = await read_to_end(client, generation, after="start", types=types)
        assert {event_of(m)["type"] for m in seen} - {"hello", "live", "stream_end"} == names
        assert event_of(seen[-1])["status"] == "stopped"
    answer = await client.get(f"{preview_url(generation)}/logs/stream", params={"types": "status"})
    assert "preview_status" in await refused(answer, 400)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_ended_one_replays_to_its_end_over_every_transport(
    client: httpx.AsyncClient, tailrace: Served, transport: Transport
) -> None:
    generation = new_generation()
    code = "import sys\nfor n in range(300): print('line', n)\nsys.stdout.flush()\nraise ValueError('no such river')"
    await launch(client, generation, code)
    await ended(client, generation)
    whole = [event_of(m) for m in await read_to_end(client, generation, after="start")]
    frames = await frames_to_end(tailrace.url, transport, generation, after="start")
    shown = [event for event in whole if event["type"] in ("log", "preview_status", "ready")]
    assert [frame.event for frame in frames if frame.type in ("log", "preview_status", "ready")] == shown
    assert "ValueError: no such river" in messages_of([event for event in shown if event["type"] == "log"])
    end = frames[-1].event
    assert (end["type"], end["status"], end["reason"], end["final"]) == ("stream_end", "failed", "terminal", True)
    frames = await frames_to_end(tailrace.url, transport, generation)  # the last lines are enough for the traceback
    assert "ValueError: no such river" in [frame.event.get("message") for frame in frames]
    assert sum(frame.type == "log" for frame in frames) == 200


async def test_one_that_comes_back_after_the_end_is_sent_away(client: httpx.AsyncClient, tailrace: Served) -> None:
    generation = await known_lines(client)
    url = f"{preview_url(generation)}/logs/stream"
    last = (await read_to_end(client, generation))[-1].id
    assert (await client.get(url, headers={"last-event-id": last})).status_code == 204
    assert (await client.get(url, params={"after": last})).status_code == 204
    async with socket_of(tailrace.url, "tailrace.v1", generation, after=last) as opened:
        frames = await opened.until_type("stream_end")
        assert [frame.type for frame in frames] == ["hello", "live", "stream_end"]
        assert frames[-1].event["status"] == "failed"
        assert await opened.close_code() == 1000
    # but who asks for the last lines gets them, and the end
    assert (await read_to_end(client, generation))[-1].event == "stream_end"


async def test_a_slow_reader_is_told_what_it_missed_and_gets_all_that_is_critical(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        server_running(url, service="previews", lag_budget_bytes=20_000, heartbeat_seconds=1) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        generation = new_generation()
        await running(client, generation)
        path = f"{preview_url(generation)}/logs/stream"
        async with stalling(server, path) as slow:
            seen = await slow.until(is_live)
            await tell(client, generation, "for n in range(15_000): print('line', n, 'x' * 200)")
            await restart(client, generation)
            async with sse(client, generation, after="start", types="preview_status") as stream:
                await stream.until(is_status("running", 2))
            await tell(client, generation, "for n in range(100): print('more', n)")
            await stop(client, generation)
            seen += await slow.until(lambda message: message.event == "stream_end")
        gaps = events_of(seen, "gap")
        assert gaps
        stored = await stored_logs(client, generation)
        received = events_of(seen, "log")
        assert len(received) + sum(gap["dropped"] for gap in gaps) == len(stored)
        assert [event["line"] for event in received] == sorted({event["line"] for event in received})
        told = statuses(seen)
        assert told == ["preparing", "starting", "running", "stopping"] * 2 + ["stopped"]
        assert len(events_of(seen, "ready")) == 2
        for gap in gaps:
            assert set(gap["by_type"]) == {"log"}
            back: list[dict[str, Any]] = []
            page = (await client.get(gap["backfill"], params={"limit": 1000})).raise_for_status().json()
            back += [f["event"] for f in page["data"] if f["event"]["type"] == "log"]
            assert back[0] not in received
        # who asks for everything gets it
        async with sse(client, generation, after="start", lossless="1") as stream:
            assert len(events_of(await stream.rest(), "log")) == len(stored)


async def test_several_previews_on_one_socket(client: httpx.AsyncClient, tailrace: Served) -> None:
    generations = [new_generation() for _ in range(3)]
    for generation in generations:
        await running(client, generation)
    async with socket_of(tailrace.url, "channels", generations[0]) as opened:
        await opened.until_type("live", "mine")
        for generation in generations[1:]:
            await opened.send({"op": "follow", "ref": generation, "channel": f"preview/{generation}"})
            await opened.until_type("live", generation)
        for place, generation in enumerate(generations):
            await tell(client, generation, f"print('words of {place}', flush=True)")
            ref = "mine" if place == 0 else generation
            while (frame := await opened.next()).event.get("message") != f"words of {place}":
                pass
            assert frame.ref == ref
        await opened.send({"op": "follow", "ref": "bad", "channel": "preview/"})
        assert "preview/<generation>" in str((await opened.until(lambda frame: frame.ref == "bad"))[-1].event)
    for generation in generations:
        await stop(client, generation)


async def test_polling_goes_from_page_to_page_and_waits(client: httpx.AsyncClient) -> None:
    generation = await many_lines(client)
    url = f"{preview_url(generation)}/logs/events"
    page = (await client.get(url, params={"types": "log", "limit": 1000})).json()
    assert len(page["data"]) == 200  # as the stream begins
    after = page["next"]
    waiting = asyncio.create_task(client.get(url, params={"after": after, "wait": 20}))
    await tell(client, generation, "print('for those who wait')")
    answer = (await waiting).json()
    assert answer["data"][0]["event"]["message"] == "for those who wait"
    ndjson = await client.get(url, params={"after": after}, headers={"accept": "application/x-ndjson"})
    assert b"for those who wait" in ndjson.content


# ── stored lines ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_pages_forward_and_back_hold_every_line_once(client: httpx.AsyncClient) -> None:
    generation = await many_lines(client)
    stored = await stored_logs(client, generation)
    last = stored[-1]["line"]
    for limit in (1, 7, 100, 5_000) if len(stored) < 600 else (100,):
        if limit == 1:
            stored_part = stored[:30]
        found: list[dict[str, Any]] = []
        more, after = True, 0
        while more and (limit != 1 or len(found) < 30):
            page = await page_of(client, generation, after=after, limit=limit)
            assert (page["first_line"], page["last_line"]) == (1, last)
            assert len(page["data"]) <= limit
            found += page["data"]
            more, after = page["more"], page["data"][-1]["line"]
        assert found == (stored_part if limit == 1 else stored)
    found = []
    more, before = True, last + 1
    while more:
        page = await page_of(client, generation, before=before, limit=90)
        found = page["data"] + found
        more, before = page["more"], page["data"][0]["line"]
    assert found == stored


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"tail": 3}, slice(-3, None)),
        ({"limit": 3}, slice(0, 3)),
        ({"before": 5}, slice(0, 4)),
        ({"after": 498, "before": 500}, slice(498, 499)),
        ({"before": 100, "limit": 5}, slice(94, 99)),
        ({"after": 100, "limit": 5}, slice(100, 105)),
        ({"before": 100, "after": 0, "limit": 5}, slice(0, 5)),
        ({"before": 100, "after": 0, "tail": 5}, slice(94, 99)),
        ({"after": 10**9}, slice(0, 0)),
        ({"before": 0}, slice(0, 0)),
    ],
)
async def test_a_page_is_the_part_that_was_asked_for(
    client: httpx.AsyncClient, params: dict[str, int], expected: slice
) -> None:
    generation = await many_lines(client)
    stored = await stored_logs(client, generation)
    page = await page_of(client, generation, **params)
    assert page["data"] == stored[expected]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"level": "ERROR"}, [4]),
        ({"level": "WARN"}, [3, 4]),
        ({"level": "INFO"}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"level": "DEBUG"}, list(range(11))),
        ({"stream": "stderr"}, [10]),
        ({"stream": "stdout"}, list(range(10))),
        ({"q": "river"}, [1]),
        ({"q": "RIVER"}, [1]),
        ({"q": "dam's"}, [4]),
        ({"q": 'gate "b"'}, [4]),
        ({"q": "100%"}, [4]),
        ({"q": "%"}, [4]),
        ({"q": "\\"}, [4]),
        ({"q": "a_b"}, [5]),
        ({"q": "red then plain"}, [7]),
        ({"q": "31m"}, []),
        ({"q": "_"}, [5]),
        ({"q": "ärger"}, [6]),
        ({"q": "ÄRGER"}, [6]),
        ({"q": "GRÖSSE"}, []),
        ({"q": "GRÖ"}, [6]),
        ({"q": "red"}, [7]),
        ({"q": '{"key": "VALUE"'}, [8]),
        ({"q": "[1, 2]"}, [8]),
        ({"q": "tab\there"}, [9]),
        ({"q": "\U0001f30a"}, [9]),
        ({"q": "message"}, []),
        ({"q": "line"}, []),
        ({"q": "') OR 1=1 --"}, []),
        ({"q": ".*"}, []),
        ({"q": "the", "level": "ERROR"}, [4]),
        ({"q": "the", "stream": "stderr"}, [10]),
    ],
)
async def test_lines_are_found_by_level_stream_and_text(
    client: httpx.AsyncClient, params: dict[str, str], expected: list[int]
) -> None:
    generation = await known_lines(client)
    lines = [*LINES.splitlines(), "to the side"]
    page = await page_of(client, generation, **params)
    found = [event["message"] for event in page["data"] if event["source"] == "preview"]
    assert sorted(found) == sorted(lines[place] for place in expected)
    assert page["more"] is False


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"level": "LOUD"}, "WARN"),
        ({"stream": "stdin"}, "stderr"),
        ({"q": ""}, "q"),
        ({"q": "x" * 501}, "q"),
        ({"q": "a\0b"}, "q"),
        ({"limit": 0}, "limit"),
        ({"limit": 5_001}, "limit"),
        ({"tail": 0}, "tail"),
        ({"tail": 5, "limit": 5}, "tail"),
        ({"after": -1}, "after"),
        ({"after": "start"}, "after"),
        ({"before": "x"}, "before"),
        ({"types": "log"}, "types"),
    ],
)
async def test_a_wrong_question_is_400(client: httpx.AsyncClient, params: dict[str, Any], named: str) -> None:
    answer = await client.get(f"{preview_url(await known_lines(client))}/logs", params=params)
    assert named in await refused(answer, 400)


async def test_the_download_is_what_the_program_has_printed(client: httpx.AsyncClient) -> None:
    generation = await known_lines(client)
    assert await download(client, generation, stream="stdout") == LINES
    whole = await download(client, generation)
    assert sorted(whole.splitlines())[: -0 or None] == sorted(
        event["message"] for event in await stored_logs(client, generation)
    )
    assert await download(client, generation, level="ERROR", stream="stdout") == LINES.splitlines(keepends=True)[4]
    assert await download(client, generation, q="no such words") == ""
    answer = await client.get(f"{preview_url(generation)}/logs", headers={"accept": "text/plain"})
    assert answer.headers["content-disposition"].startswith('attachment; filename="prv-')
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_download_of_many_pages_is_complete(client: httpx.AsyncClient) -> None:
    generation = new_generation()
    await launch(client, generation, "for n in range(9_000): print('line', n, 'ü' * (n % 50))")
    await ended(client, generation)
    expected = [f"line {n} {'ü' * (n % 50)}\n" for n in range(9_000)]
    assert await download(client, generation, stream="stdout") == "".join(expected)
    lines = await stored_logs(client, generation)
    first = next(event["line"] for event in lines if event["message"].startswith("line 0 "))
    text = await download(client, generation, stream="stdout", after=first + 99, before=first + 4_100)
    assert text == "".join(expected[100:4_100])


async def test_the_last_lines_only_are_downloaded_when_so_asked(client: httpx.AsyncClient) -> None:
    generation = await many_lines(client)
    whole = (await download(client, generation)).splitlines()
    assert (await download(client, generation, tail=5)).splitlines() == whole[-5:]
    assert (await download(client, generation, limit=5)).splitlines() == whole[:5]


@pytest.mark.parametrize(
    "code",
    [
        # one line of 5 MB
        "import sys; sys.stdout.write('0123456789' * 500_000 + '\\nafter\\n')",
        # several, and others in between on the other pipe
        "import sys, time\n"
        "for n in range(40):\n"
        "    sys.stdout.write('abcdefghij' * 10_000); sys.stdout.flush()\n"
        "    sys.stderr.write('beside %d\\n' % n); sys.stderr.flush(); time.sleep(0.02)\n"
        "print()\nprint('after')\n",
        # many of two parts
        "for n in range(400): print(str(n % 10) * 20_000)",
    ],
)
async def test_long_lines_are_whole_on_every_page_and_in_the_download(client: httpx.AsyncClient, code: str) -> None:
    generation = new_generation()
    await launch(client, generation, code)
    await ended(client, generation)
    stored = await stored_logs(client, generation)
    assert len(stored) > 240
    pieces: dict[int, list[int]] = {}
    for event in stored:
        if not event["partial"] and event["source"] == "preview":
            pieces.setdefault(event["line"], []).append(event["part"])
    assert all(parts == list(range(len(parts))) for parts in pieces.values())
    assert sum(event.get("dropped") or 0 for event in stored) == 0
    lines = printed(stored, "stdout")
    text = await download(client, generation, stream="stdout")
    assert text.splitlines() == lines
    if "500_000" in code:
        assert lines == ["0123456789" * 500_000, "after"]
    elif "beside" in code:
        assert lines == ["abcdefghij" * 400_000, "after"]
        assert printed(stored, "stderr") == [f"beside {n}" for n in range(40)]
        whole = await download(client, generation)
        assert whole.count("abcdefghij") == 400_000
        assert [line for line in whole.splitlines() if line.startswith("beside")] == printed(stored, "stderr")
    else:
        assert lines == [str(n % 10) * 20_000 for n in range(400)]
    # and page by page, whatever the size of a page
    for limit in (100, 333):
        found: list[dict[str, Any]] = []
        more, after = True, 0
        while more:
            page = await page_of(client, generation, after=after, limit=limit)
            found += page["data"]
            more, after = page["more"], max(event["line"] for event in page["data"])
        assert printed(found, "stdout") == lines
        keys = [(event["line"], event["part"], event["partial"], event["message"]) for event in found]
        assert len(keys) == len(set(keys)) or any(event["partial"] for event in found)
        assert len(found) == len(stored)
