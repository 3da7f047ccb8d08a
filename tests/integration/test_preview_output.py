"""What programs print, through capture and storage to those who read it: everything arrives, or is counted."""

import asyncio
import re
import time
from typing import Any

import httpx

from tests.support.contract import Served
from tests.support.postgres import fresh_database
from tests.support.previews import (
    SERVE,
    download,
    ended,
    event_of,
    events_of,
    get,
    is_line,
    is_live,
    launch,
    new_generation,
    printed,
    read_to_end,
    restart,
    running,
    sse,
    stop,
    stored_logs,
    tell,
)
from tests.support.server import running as server_running

SETTINGS = {"previews_per_tenant": 60}

MANY = 200_000


def check_numbers(events: list[dict[str, Any]]) -> int:
    """Lines are numbered without holes, as they begin. How many are said to have been dropped."""
    numbers = list(dict.fromkeys(event["line"] for event in events))
    assert numbers == list(range(1, len(numbers) + 1))
    told = [event for event in events if event.get("dropped") is not None]
    for event in told:
        assert (event["source"], event["stream"], event["level"]) == ("system", None, "WARN")
        assert event["message"] == f"lines dropped: {event['dropped']}"
    return sum(event["dropped"] for event in told)


# ── floods ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_a_flood_every_line_is_stored_or_counted(client: httpx.AsyncClient) -> None:
    generation = new_generation("flood")
    await launch(client, generation, f"for n in range({MANY}): print('line', n)\nprint('the end')")
    preview = await ended(client, generation)
    events = await stored_logs(client, generation)
    dropped = check_numbers(events)
    lines = printed(events)
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line")]
    assert len(lines) + dropped == MANY + 1
    assert numbers == sorted(set(numbers))
    assert lines[-1] == "the end"
    assert "the end" in preview["tail"]
    # where something is missing, a line stands for exactly that
    missing = 0
    expected = 0
    for event in events:
        if event.get("dropped"):
            missing += event["dropped"]
        elif event["message"].startswith("line"):
            number = int(event["message"].split()[1])
            assert number == expected + missing
            expected, missing = number + 1, 0
    assert (await download(client, generation, stream="stdout")).splitlines() == lines


async def test_a_flood_on_both_pipes_while_somebody_watches(client: httpx.AsyncClient) -> None:
    generation = new_generation("flood")
    code = "for n in range(20_000): print('out', n); print('err', n, file=sys.stderr)"
    await running(client, generation)
    async with sse(client, generation) as stream:
        await stream.until(is_live)
        await tell(client, generation, code)
        await stop(client, generation)
        seen = await stream.rest()
    events = await stored_logs(client, generation)
    dropped = check_numbers(events)
    assert dropped == 0
    assert [line for line in printed(events, "stdout") if line[:3] == "out"] == [f"out {n}" for n in range(20_000)]
    assert printed(events, "stderr") == [f"err {n}" for n in range(20_000)]
    shed = sum(event["dropped"] for event in events_of(seen, "gap"))
    shown = events_of(seen, "log")
    assert shown == [*shown[:1], *(event for event in events[events.index(shown[0]) + 1 :])] or shed
    assert len(shown) + shed == len(events) - events.index(shown[0])


async def test_a_program_is_not_slowed_down_by_what_it_prints(client: httpx.AsyncClient) -> None:
    generation = new_generation("flood")
    code = "t = time.monotonic(); [print('line', n) for n in range(100_000)]; sys.stdout.flush()"
    code += "; answer = time.monotonic() - t"
    await running(client, generation)
    assert float(await tell(client, generation, code)) < 20  # at the rate at which lines are stored it were more
    await stop(client, generation)
    events = await stored_logs(client, generation)
    assert len([line for line in printed(events) if line[:4] == "line"]) + check_numbers(events) == 100_000


async def test_what_is_stored_is_bounded_and_the_last_lines_are_always_there(postgres_url: str) -> None:
    async with (
        fresh_database(postgres_url) as url,
        server_running(url, service="previews", preview_log_lines=5_000) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        generation = new_generation("bounded")
        await running(client, generation)
        async with sse(client, generation, after="start", lossless="1") as stream:
            await tell(client, generation, "for n in range(6_000): print('line', n)")
            said = "this preview has printed a lot: from here on only some of its lines are kept"
            seen = await stream.until(is_line(said, source="system", level="WARN"))
            assert len(events_of(seen, "log")) < 16_000
            began = time.monotonic()
            await tell(client, generation, "for n in range(60_000): print('more', n)")
            trickle = await stream.until(lambda m: time.monotonic() > began + 3 and event_of(m)["type"] == "log")
            assert 5 < len(events_of(trickle, "log")) < 100  # about ten a second
            await tell(client, generation, "print('the last words', flush=True)")
            preview = await stop(client, generation)
        assert preview["status"] == "stopped"
        events = await stored_logs(client, generation)
        dropped = check_numbers(events)
        lines = printed(events)
        assert "the last words" in lines
        assert len([line for line in lines if line[:4] in ("line", "more")]) + dropped == 66_000
        # another attempt does not begin the count anew
        before = len(events)
        await restart(client, generation)
        async with sse(client, generation) as stream:
            await stream.until(lambda m: m.event == "ready")
        await tell(client, generation, "for n in range(9_000): print('again', n)")
        await tell(client, generation, "time.sleep(1)")
        events = await stored_logs(client, generation)
        assert len(events) < before + 1_000, "an attempt of a preview that is beyond its bound stores as much again"
        await stop(client, generation)


# ── lines ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_line_without_an_end_is_seen_within_a_second_and_completed_later(client: httpx.AsyncClient) -> None:
    generation = new_generation("prompt")
    await running(client, generation)
    async with sse(client, generation) as stream:
        await stream.until(is_live)
        began = time.monotonic()
        await tell(client, generation, "sys.stdout.write('Name? '); sys.stdout.flush()")
        seen = await stream.until(lambda m: event_of(m).get("partial") is True)
        assert time.monotonic() - began < 1
        prompt = event_of(seen[-1])
        assert (prompt["message"], prompt["last"], prompt["part"]) == ("Name? ", False, 0)
        await tell(client, generation, "print('beside', file=sys.stderr, flush=True)")
        await stream.until(is_line("beside"))
        await tell(client, generation, "print('Elbe', flush=True)")
        line = event_of((await stream.until(is_line("Name? Elbe")))[-1])
        assert (line["line"], line["part"], line["last"]) == (prompt["line"], 0, True)
    await stop(client, generation)
    assert "Name? Elbe" in (await download(client, generation)).splitlines()
    assert (await download(client, generation)).count("Name?") == 1


async def test_a_line_that_grows_all_the_time_is_seen_while_it_does(client: httpx.AsyncClient) -> None:
    generation = new_generation("dots")
    await running(client, generation)
    async with sse(client, generation) as stream:
        await stream.until(is_live)
        dots = "threading.Thread(target=lambda: [(print('.', end='', flush=True), time.sleep(0.05)) for n in range(60)]"
        dots += " + [print(flush=True)]).start()"
        await tell(client, generation, dots)
        seen = await stream.until(is_line("." * 60))
        partial = [event["message"] for event in events_of(seen, "log") if event["partial"]]
        assert len(partial) >= 5  # in three seconds
        assert partial == sorted(set(partial))
        assert len({event["line"] for event in events_of(seen, "log") if "." in event["message"]}) == 1
    await stop(client, generation)


async def test_a_prompt_is_seen_while_the_other_pipe_never_rests(client: httpx.AsyncClient) -> None:
    generation = new_generation("busy")
    await running(client, generation)
    async with sse(client, generation) as stream:
        await stream.until(is_live)
        busy = "threading.Thread(target=lambda: [(print('tick', file=sys.stderr, flush=True), time.sleep(0.05))"
        busy += " for n in range(1000)], daemon=True).start()"
        await tell(client, generation, busy)
        began = time.monotonic()
        await tell(client, generation, "print('Name? ', end='', flush=True)")
        await stream.until(lambda m: event_of(m).get("message") == "Name? ")
        assert time.monotonic() - began < 1.5
    await stop(client, generation)


async def test_a_progress_bar_is_one_line_that_changes(client: httpx.AsyncClient) -> None:
    generation = new_generation("bar")
    code = "import sys, time\nfor n in range(0, 101, 5):\n    sys.stderr.write(f'\\r{n:3}% ' + '#' * (n // 5))\n"
    code += "    sys.stderr.flush(); time.sleep(0.05)\nsys.stderr.write('\\n')\nprint('done')"
    await launch(client, generation, code)
    await ended(client, generation)
    events = await stored_logs(client, generation)
    bar = [event for event in events if "%" in event["message"]]
    assert len({event["line"] for event in bar}) == 1
    assert [event["message"] for event in bar if not event["partial"]] == ["100% " + "#" * 20]
    assert 2 <= len(bar) <= 12  # a few of its states, not each
    assert sorted(printed(events)) == ["100% " + "#" * 20, "done"]


async def test_colours_stay_and_every_other_escape_goes(client: httpx.AsyncClient) -> None:
    generation = new_generation("colours")
    text = "\x1b[31;1mred\x1b[0m \x1b]0;title\x07plain \x1b[2J\x1b[10;10Hhere \x1b]52;c;c2VjcmV0\x07end\x1b[?25l"
    await launch(client, generation, f"print({text!r})")
    await ended(client, generation)
    assert printed(await stored_logs(client, generation)) == ["\x1b[31;1mred\x1b[0m plain here end"]


async def test_bytes_that_are_no_text_do_no_harm(client: httpx.AsyncClient) -> None:
    generation = new_generation("bytes")
    code = (
        "import os, time\n"
        "os.write(1, b'a\\x00b\\n')\n"
        "os.write(1, b'bad \\xff\\xfe end\\n')\n"
        "os.write(1, 'ü'.encode()[:1]); time.sleep(0.3); os.write(1, 'ü'.encode()[1:] + b' whole\\n')\n"
        "os.write(1, b'half \\xc3')\n"
    )
    await launch(client, generation, code)
    await ended(client, generation)
    assert printed(await stored_logs(client, generation)) == ["ab", "bad \ufffd\ufffd end", "ü whole", "half \ufffd"]


async def test_whatever_bytes_come_the_numbers_hold_and_the_service_is_well(
    client: httpx.AsyncClient, tailrace: Served
) -> None:
    generation = new_generation("noise")
    code = "import os, random\nrandom.seed(7)\nfor n in range(400): os.write(1 + n % 2, random.randbytes(5_000))"
    await launch(client, generation, code)
    await ended(client, generation)
    events = await stored_logs(client, generation)
    numbers = sorted({event["line"] for event in events})
    assert numbers == list(range(1, numbers[-1] + 1))
    assert not any(re.search("[\0\x07\ud800-\udfff]", event["message"]) for event in events)
    await download(client, generation)
    assert (await client.get("/ready")).status_code == 200
    assert " ERROR " not in "".join(tailrace.server.output)


async def test_a_program_that_closes_its_output_lives_on_and_one_that_leaves_it_to_others_ends(
    client: httpx.AsyncClient,
) -> None:
    closes, leaves = new_generation("closes"), new_generation("leaves")
    await running(client, closes)
    await tell(client, closes, "print('bye', flush=True); os.close(1); os.close(2)")
    assert await tell(client, closes, "answer = 'well'") == "well"
    assert (await get(client, closes))["status"] == "running"
    await stop(client, closes)
    assert "bye" in printed(await stored_logs(client, closes))
    code = "import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 600; echo never'])\nprint('gone')"
    await launch(client, leaves, code)
    async with asyncio.timeout(20):
        assert (await ended(client, leaves))["exit"] == {"code": 0, "signal": None}
    assert printed(await stored_logs(client, leaves)) == ["gone"]


async def test_levels_and_tracebacks_are_told(client: httpx.AsyncClient) -> None:
    generation = new_generation("levels")
    code = SERVE.replace(
        "status =",
        "import logging, traceback\nlogging.basicConfig(level=10, format='%(levelname)s %(message)s')\n"
        "for word in ('debug', 'info', 'warning', 'error', 'critical'): getattr(logging, word)(word)\n"
        "try: int('x')\nexcept ValueError: traceback.print_exc()\nstatus =",
    )
    await running(client, generation, code)
    await stop(client, generation)
    events = [e for e in events_of(await read_to_end(client, generation, after="start"), "log") if e["stream"]]
    levels = [(event["message"].partition(" ")[0], event["level"]) for event in events][:5]
    assert levels == [
        ("DEBUG", "DEBUG"),
        ("INFO", "INFO"),
        ("WARNING", "WARN"),
        ("ERROR", "ERROR"),
        ("CRITICAL", "ERROR"),
    ]
    start = next(place for place, event in enumerate(events) if event["message"].startswith("Traceback"))
    end = next(place for place, event in enumerate(events) if event["message"].startswith("ValueError"))
    assert {event["level"] for event in events[start : end + 1]} == {"ERROR"}
