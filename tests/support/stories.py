"""Stories of tasks whose runs begin and end while something keeps going wrong, and what has to come of each.

A `Story` drives a task's runs at the runs service, which stays up, and plays the person who makes, renames and cancels
the task at the tasks service, which does not. What must come of it is computed from the runs' own events, by other
means than the service's.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from tests.support.consumption import TASKS, Held, Refusal, refusals, run_status, snapshots
from tests.support.contract import RUNS, sql

ENDS = ("completed", "completed", "completed", "failed", "timed_out", "cancelled")
ENDED = ("succeeded", "failed", "cancelled")
PATIENCE_SECONDS = 120.0  # nothing takes that long, however busy the machine

_numbers = itertools.count(1)


class Clock:
    """Counts what goes wrong; the stories are told by it, so that all of them are on while it does."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self._struck = asyncio.Condition()

    @property
    def is_over(self) -> bool:
        return self.count >= self.limit

    async def strike(self) -> None:
        async with self._struck:
            self.count += 1
            self._struck.notify_all()

    async def reach(self, count: float) -> None:
        async with self._struck:
            await self._struck.wait_for(lambda: self.count >= min(count, self.limit))


class Person:
    """Asks the tasks service until it answers, whichever of its processes does."""

    def __init__(self, client: httpx.AsyncClient, urls: Sequence[str], chance: random.Random) -> None:
        self._client = client
        self._urls = urls
        self._chance = chance
        self.answers: Counter[str] = Counter()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            assert asyncio.get_running_loop().time() < deadline, f"{method} {path}: never answered"
            url = self._chance.choice(self._urls) + path
            try:
                answer = await self._client.request(method, url, json=body, headers=headers)
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1
            else:
                self.answers[str(answer.status_code)] += 1
                if answer.status_code != 503:
                    return answer
            await asyncio.sleep(self._chance.uniform(0, 0.1))


class Story:
    """One task, and what happens to it and to its runs."""

    def __init__(self, person: Person, runs: httpx.AsyncClient, clock: Clock, chance: random.Random) -> None:
        self.task_id = ""
        self.title = f"story {next(_numbers)}"
        self.is_cancelled = False
        self._person = person
        self._runs = runs
        self._clock = clock
        self._chance = random.Random(chance.random())
        self._held: dict[str, Held] = {}
        self._queued: dict[str, str] = {}  # by runner
        self._is_over = False  # the runs have ended the task, whether it is known yet or not

    async def play(self) -> None:
        steps = self._steps()
        moments = sorted(self._chance.uniform(0, self._clock.limit) for _ in range(len(steps) + 1))
        cancels_at = self._chance.randrange(len(steps)) if self._chance.random() < 0.25 else None
        await self._clock.reach(moments[0] / 2)
        await self._create()
        for place, (step, moment) in enumerate(zip(steps, moments[1:], strict=True)):
            await self._clock.reach(moment)
            if place == cancels_at and await self._cancel():
                await self._stop()
                return
            if self._chance.random() < 0.1:
                await self._rename()
            await step()

    def _steps(self) -> list[Callable[[], Any]]:
        """What becomes of one to four runs, interleaved by chance; now and then one stays unfinished."""
        count = self._chance.randint(1, 4)
        scripts = [self._script(f"{self.title}/{number}".replace(" ", "-")) for number in range(count)]
        if self._chance.random() < 0.1:
            del scripts[0][self._chance.randint(1, len(scripts[0]) - 1) :]
        steps = []
        while scripts:
            script = self._chance.choice(scripts)
            steps.append(script.pop(0))
            if not script:
                scripts.remove(script)
        return steps

    def _script(self, runner: str) -> list[Callable[[], Any]]:
        how = self._chance.choice(ENDS)
        error = f"{runner} went wrong" if how in ("failed", "timed_out") and self._chance.random() < 0.7 else None
        script: list[Callable[[], Any]] = [lambda: self._queue(runner), lambda: self._take(runner)]
        if self._chance.random() < 0.2:
            script += [lambda: self._wait(runner), lambda: self._answer(runner)]
        return [*script, lambda: self._finish(runner, how, error)]

    # ── the runs ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _queue(self, runner: str) -> None:
        body = {"task": "work", "mode": "queued", "runner": runner, "task_id": self.task_id}
        answer = await self._runs.post(RUNS, json=body)
        self._queued[runner] = answer.raise_for_status().json()["id"]

    async def _take(self, runner: str) -> None:
        answer = await self._runs.post(f"{RUNS}/lease", json={"runners": [runner], "worker": "w"})
        given = answer.raise_for_status().json()
        self._held[runner] = Held(self._runs, self._queued.pop(runner), given["lease"]["token"])

    async def _wait(self, runner: str) -> None:
        await self._held[runner].tell({"type": "client_input_requested"})

    async def _answer(self, runner: str) -> None:
        answer = await self._runs.post(f"{RUNS}/{self._held[runner].id}/input", json={"input": "yes"})
        answer.raise_for_status()

    async def _finish(self, runner: str, how: str, error: str | None) -> None:
        await self._held.pop(runner).finish(how, error)
        self._is_over = self._is_over or not (self._held or self._queued)

    # ── the person ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _create(self) -> None:
        key = {"idempotency-key": self.title}
        answer = await self._person.ask("POST", TASKS, {"title": self.title}, **key)
        assert answer.status_code == 201, answer.text
        self.task_id = answer.json()["id"]

    async def _rename(self) -> None:
        title = f"{self.title}, renamed"
        answer = await self._person.ask("PATCH", f"{TASKS}/{self.task_id}", {"title": title})
        assert answer.status_code in (200, 409), answer.text  # 409: it has ended
        if answer.status_code == 200:
            self.title = title

    async def _cancel(self) -> bool:
        """Whether the task is cancelled, by the person or by the runs."""
        if self._chance.random() < 0.5:
            answer = await self._person.ask("POST", f"{TASKS}/{self.task_id}/cancel")
        else:
            answer = await self._person.ask("PATCH", f"{TASKS}/{self.task_id}", {"status": "cancelled"})
        assert answer.status_code in (200, 409), answer.text
        self.is_cancelled = answer.status_code == 200
        return self.is_cancelled

    async def _stop(self) -> None:
        """The runs end only because they are asked to; one that begins now too. Unless it was the runs that have
        cancelled the task: then nobody asks those that came later.
        """
        if self._is_over:
            return
        if self._chance.random() < 0.5:
            await self._queue(f"{self.task_id}/late")
        for held in self._held.values():
            await _until(held.is_to_stop, f"run {held.id} of the cancelled {self.task_id} is to stop")
            await held.finish("cancelled")
        for run_id in self._queued.values():
            await _until(partial(self._is_cancelled, run_id), f"the queued {run_id} of {self.task_id} is cancelled")

    async def _is_cancelled(self, run_id: str) -> bool:
        return await run_status(self._runs, run_id) == "cancelled"


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Like `eventually`, at a pace that leaves the machine to those who are waited for."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"never: {what}"
        await asyncio.sleep(0.2)


# ── what has to come of it ─────────────────────────────────────────────────────────────────────────────────────


class State(Struct, frozen=True):
    """What a task shows of its runs."""

    status: str = "queued"
    done: float = 0
    total: float | None = None
    run_ids: tuple[str, ...] = ()
    error: str | None = None


def states(events: Sequence[dict[str, Any]]) -> tuple[list[State], list[dict[str, Any]]]:
    """The states that the events of a task's runs lead it through, up to its end; and the events that come too late."""
    seen, newest = [State()], {}
    for place, event in enumerate(events):
        newest[event["run_id"]] = event
        counts = Counter(known["status"] for known in newest.values())
        bad = sorted(run_id for run_id in newest if newest[run_id]["status"] in ("failed", "timed_out"))
        done = sum(counts[end] for end in ("completed", "failed", "timed_out", "cancelled"))
        if done < len(newest):
            status = "waiting_input" if counts["waiting_input"] else "running"
            if counts["queued"] == len(newest) and seen[-1].status == "queued":
                status = "queued"
        else:
            status = "failed" if bad else "succeeded" if counts["completed"] else "cancelled"
        error = _fault(newest[bad[0]]) if status == "failed" else None
        seen.append(State(status, done, len(newest), tuple(sorted(newest)), error))
        if status in ENDED:
            return seen, list(events[place + 1 :])
    return seen, []


def _fault(event: dict[str, Any]) -> str:
    said = {"failed": "failed", "timed_out": "took too long"}[event["status"]]
    return str(event.get("error") or f"run {event['run_id']} {said}")


async def check(
    stories: Sequence[Story], client: httpx.AsyncClient, runs_database_url: str, tasks_database_url: str
) -> Counter[str]:
    """Every task is what the rules make of its runs' events, and nothing happened twice. How they ended."""
    async with sql(runs_database_url) as database:
        rows = await database.fetch("SELECT data FROM runs.events WHERE type = 'status' ORDER BY seq")
    told: dict[str, list[dict[str, Any]]] = {story.task_id: [] for story in stories}
    for row in rows:
        event = msgspec.json.decode(row["data"])
        told[event["task_id"]].append(event)
    stored: dict[str, list[dict[str, Any]]] = {}
    for snapshot in await snapshots(client):
        stored.setdefault(snapshot["task_id"], []).append(snapshot)
    late: list[tuple[str, str, str]] = []
    outcomes: Counter[str] = Counter()
    for story in stories:
        expected, too_late = states(told[story.task_id])
        check_snapshots(stored[story.task_id])
        last = stored[story.task_id][-1]
        shown = shown_by(last)
        outcomes["cancelled by a person" if story.is_cancelled else shown.status] += 1
        assert last["title"] == story.title
        if story.is_cancelled:
            assert shown.status == "cancelled"
            kept = (shown.done, shown.total, shown.run_ids)
            assert kept in [(state.done, state.total, state.run_ids) for state in expected], story.task_id
        else:
            assert shown == expected[-1], story.task_id
            late += [(story.task_id, f"run/{event['run_id']}", f"the run is {event['status']}") for event in too_late]
    of = [story.task_id for story in stories if not story.is_cancelled]
    refused: list[Refusal] = await refusals(tasks_database_url, of)
    assert sorted((each.task_id, each.subject, each.detail) for each in refused) == sorted(late)
    assert {refusal.reason for refusal in refused} <= {"task_has_ended"}
    return outcomes


def shown_by(snapshot: dict[str, Any]) -> State:
    progress = snapshot["progress"]
    return State(snapshot["status"], progress["done"], progress["total"], tuple(snapshot["run_ids"]), snapshot["error"])


def check_snapshots(stored: Sequence[dict[str, Any]]) -> None:
    """They are told once each, in order, and each tells something new."""
    task_id = stored[0]["task_id"]
    assert [snapshot["rev"] for snapshot in stored] == list(range(1, len(stored) + 1)), task_id
    for before, after in itertools.pairwise(stored):
        assert before["status"] not in ENDED, task_id
        assert after["progress"]["done"] >= before["progress"]["done"], task_id
        assert set(after["run_ids"]) >= set(before["run_ids"]), task_id
        changed = {name for name in after if after[name] != before[name]}
        assert changed - {"rev", "ts", "updated_at"}, task_id
