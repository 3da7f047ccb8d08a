"""The page of runs as a test sees it: where things are on it, and what it shows."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from playwright.async_api import Locator, Page, expect

from tests.support.contract import RUNS, Frame

Shown = Mapping[str, Sequence[tuple[str, str, int]]]


async def opened(page: Page, url: str, path: str = "/runs") -> None:
    """The page, live."""
    await page.goto(f"{url}{path}")
    await expect(page.locator("#connection")).to_have_attribute("data-phase", "live")


def card(page: Page, run_id: str) -> Locator:
    return page.locator(f'#cards [data-run="{run_id}"]')


def row(page: Page, run_id: str) -> Locator:
    return page.locator(f'#ended [data-run="{run_id}"]')


async def launch(page: Page, task: str, *, count: int = 1, params: Mapping[str, Any] | None = None) -> None:
    """Fill in the form and press the button."""
    await page.get_by_label("Prompt").fill(task)
    await page.locator(f'[data-count="{count}"]').click()
    if params is not None:
        more = page.locator(".launch-more")
        if await more.get_attribute("open") is None:
            await more.locator("summary").click()
        await page.locator("#params").fill(json.dumps(params))
    await page.locator("#go").click()


async def ids(page: Page, where: str) -> list[str]:
    """Those of the runs in `#cards` or `#ended`, in their order."""
    found: list[str] = await page.eval_on_selector_all(
        f"{where} > [data-run]", "all => all.map((one) => one.dataset.run)"
    )
    return found


async def chain(page: Page) -> Shown:
    """The rows of a short event chain, by worker: the first and last position of each, and how many events it is."""
    await page.locator(".chain-end").evaluate("(end) => end.scrollIntoView()")  # rows far out of sight are not there
    await expect(page.locator(".block:empty")).to_have_count(0)  # they are filled one a frame
    found: dict[str, list[list[Any]]] = await page.evaluate(
        """() => {
            const read = ({ dataset }) => [dataset.first, dataset.last, Number(dataset.events)];
            const groups = [...document.querySelectorAll(".group")];
            return Object.fromEntries(
                groups.map((group) => [group.dataset.worker, [...group.querySelectorAll(".ev")].map(read)]),
            );
        }"""
    )
    return {worker: [(first, last, count) for first, last, count in rows] for worker, rows in found.items()}


def positions_of(frames: Sequence[Frame]) -> Mapping[str, Sequence[str]]:
    """The positions of stored events by the worker that a chain shows them under."""
    found: dict[str, list[str]] = {}
    for frame in frames:
        event = frame.event
        worker = event.get("worker_id") if event["type"] == "node_update" else event.get("stream_id")
        found.setdefault((worker or "").removeprefix("worker:"), []).append(str(frame.id))
    return found


def check_chain(shown: Shown, stored: Sequence[Frame]) -> None:
    """Each stored event is in one row, in its place, and no row has one that is not stored."""
    wanted = positions_of(stored)
    assert set(shown) == set(wanted)
    for worker, positions in wanted.items():
        place = 0
        for first, last, count in shown[worker]:
            assert [first, last] == [positions[place], positions[place + count - 1]], worker
            place += count
        assert place == len(positions), worker


async def tell(client: httpx.AsyncClient, run_id: str, token: str, *events: Mapping[str, Any]) -> None:
    """Append events to a leased run."""
    answer = await client.post(
        f"{RUNS}/{run_id}/events", json={"events": list(events)}, headers={"tailrace-lease": token}
    )
    answer.raise_for_status()
