"""What `/metrics` and the log say of a real server with traffic, and whether the dashboard asks for it."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from shared.protocol.ends import EndReason
from shared.protocol.position import ResetReason
from tests.support.contract import RUNS, finish
from tests.support.server import Server, append, lease, sse

DASHBOARD = Path(__file__).parents[2] / "deploy/grafana/tailrace.json"
OF_PROMETHEUS = {"job", "instance", "le"}
_METRIC = re.compile(r"\btailrace_\w+")
_LABELS = re.compile(r"by \(([^)]*)\)|([a-z_]+)(?==~?\")|label_values\([^,]*, (\w+)\)")


@pytest_asyncio.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    served = Server(database_url, service="runs", log_level="info", log_format="json", heartbeat_seconds=0.3)
    await served.start()
    yield served
    await served.end()


async def samples_of(client: httpx.AsyncClient) -> dict[str, list[dict[str, str]]]:
    """The labels of each sample, by its name; of families without samples too."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families((await client.get("/metrics")).text):
        found.setdefault(family.name if family.type != "counter" else f"{family.name}_total", [])
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


async def follow_a_run(client: httpx.AsyncClient) -> str:
    """One run from its start to its end, with a reader that is cut off and comes back; the reader's last id."""
    run_id, token = await lease(client)
    stream = f"{RUNS}/{run_id}/stream"
    async with sse(client, stream) as reader:
        cut_off_at = (await reader.until(lambda message: message.event == "live"))[-1].id
        await append(client, run_id, token, 3)
        await reader.until(lambda message: message.event == "node_update")
    async with sse(client, stream, headers={"last-event-id": cut_off_at}) as reader:
        await finish(client, run_id, token)
        return (await reader.until(lambda message: message.event == "stream_end"))[-1].id


async def test_the_dashboard_asks_only_for_what_there_is(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        await follow_a_run(client)
        there = await samples_of(client)
    expressions = re.findall(r'"(?:expr|query|definition)": "((?:[^"\\]|\\.)*)"', DASHBOARD.read_text())
    asked = [json.loads(f'"{expression}"') for expression in expressions if "tailrace_" in expression]
    assert len(asked) > 15
    for expression in asked:
        names = set(_METRIC.findall(expression))
        assert names
        assert names <= set(there), f"nothing on /metrics is called {names - set(there)}"
        parts = {part.strip() for found in _LABELS.findall(expression) for part in ",".join(found).split(",")}
        for name in names:
            for labels in there[name]:
                assert parts - {""} <= set(labels) | OF_PROMETHEUS, expression


async def test_what_can_be_counted_by_name_is_there_before_the_first_count(server: Server) -> None:
    """A counter that appears with a 1 has not grown, as Prometheus sees it: its first slow reader would not show."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        text = (await client.get("/metrics")).text
    begun: dict[tuple[str, str], set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_total"):
                assert sample.value == 0
                for label, value in sample.labels.items():
                    begun.setdefault((sample.name, label), set()).add(value)
    ends = {reason.label for reason in EndReason}
    assert begun["tailrace_stream_ends_total", "reason"] == {*ends, "disconnect"}
    assert begun["tailrace_stream_ends_total", "transport"] == {"sse", "websocket"}
    assert begun["tailrace_resumes_total", "result"] == {*ResetReason, "continued"}
    assert begun["tailrace_skipped_events_total", "class"] == {"sheddable", "latest"}
    assert begun["tailrace_refused_requests_total", "why"] == {"token", "ticket", "origin", "rate"}


async def test_metrics_tell_who_is_slow_and_why_streams_ended(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        await follow_a_run(client)
        there = await samples_of(client)
        text = (await client.get("/metrics")).text
    assert {"transport": "sse", "reason": "terminal"} in there["tailrace_stream_ends_total"]
    assert {"result": "continued"} in there["tailrace_resumes_total"]
    assert {"transport": "sse"} in there["tailrace_readers_behind"]
    delivered = re.search(r'^tailrace_publish_to_deliver_seconds_count\{service="runs"\} (\d+)', text, re.MULTILINE)
    assert delivered is not None
    assert int(delivered[1]) >= 1
    assert not any("tenant" in labels for samples in there.values() for labels in samples)


async def test_a_streams_end_is_logged_once_with_what_one_wants_to_know(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        last_id = await follow_a_run(client)
    await server.end()
    lines = [json.loads(line) for line in server.output if line.startswith("{")]
    ends = [line for line in lines if line["message"] == "stream ended" and line.get("reason") == "terminal"]
    assert len(ends) == 1
    (end,) = ends
    assert end["logger"] == "tailrace.stream"
    assert end["transport"] == "sse"
    assert end["events"] >= 2
    assert end["seconds"] > 0
    assert end["tenant"] == "default"
    assert end["last_id"] == last_id
    assert end["filter"]["subjects"][0].startswith("run/")
    assert sum(line["message"] == "stream ended" for line in lines) == 2  # and that of the one who left
