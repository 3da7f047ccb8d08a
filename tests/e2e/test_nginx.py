"""What a browser has built in, through a real nginx with the shipped configuration."""

import asyncio
import re
import ssl
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page

from deploy.first_start import self_signed
from tests.e2e.watchers import EventSourceWatcher, PageWatcher
from tests.support.contract import RUNS, Served, events_of, finish, served
from tests.support.nginx import proxy
from tests.support.server import ROOT, Server, append, free_port, lease, running

pytestmark = [pytest.mark.browser, pytest.mark.nginx]

FAST = {"retry_milliseconds": 50}
# as docs/protocol.md has it
WRAPPER = re.search(r"```js\n(function follow\(.*?)```", (ROOT / "docs/protocol.md").read_text(), re.DOTALL)
STREAMS = 10  # a browser has six connections to a host where it speaks HTTP/1.1


class WrappedEventSourceWatcher(PageWatcher):
    """An EventSource that is made anew when it has ended for good."""

    SCRIPT = f"""([path, name]) => {{
        const tell = window[name];
        {WRAPPER[1] if WRAPPER else ""}
        const types = ["hello", "live", "gap", "reset", "bookmark", "stream_end", "status", "node_update"];
        follow(path, types, (message) => tell("frame", message.lastEventId, message.data));
    }}"""


async def restarted(server: Server, through: httpx.AsyncClient) -> None:
    """kill -9 and start again; in between nginx has had nothing to answer with but an error."""
    await server.kill()
    assert (await through.get(RUNS)).status_code == 502


async def test_a_wrapped_event_source_resumes_when_a_service_is_restarted_behind_nginx(
    nginx_path: Path, database_url: str, page: Page
) -> None:
    async with (
        running(database_url, **FAST) as server,
        proxy(nginx_path, server.url) as nginx,
        httpx.AsyncClient(base_url=nginx.url, timeout=30) as client,
    ):
        run_id, token = await lease(client)
        await page.goto(nginx.url)
        watcher = WrappedEventSourceWatcher(f"{nginx.url}{RUNS}/{run_id}/stream", page)
        bare = EventSourceWatcher(f"{nginx.url}{RUNS}/{run_id}/stream", page)
        await watcher.begin()
        await bare.begin()
        for count in (12, 22):
            await append(client, run_id, token, 10)
            await watcher.until(lambda watcher, count=count: len(watcher.events) == count)  # type: ignore[misc]
            await restarted(server, client)
            await asyncio.wait_for(bare.closed.wait(), 60)  # the 502 has ended it for good
            await server.start()
        await finish(client, run_id, token)
        await watcher.until(lambda watcher: watcher.has_ended)
        assert [frame.id for frame in watcher.events] == [frame.id for frame in await events_of(client, run_id)]
        assert [hello.event["resumed"] for hello in watcher.hellos] == [False, True, True]
        assert len(bare.events) <= 12


async def test_over_http_2_more_streams_than_six_are_open_at_once(
    nginx_path: Path, postgres_url: str, page: Page, tmp_path: Path
) -> None:
    for name, text in zip(("key.pem", "certificate.pem"), self_signed(["127.0.0.1"]), strict=True):
        (tmp_path / name).write_text(text)
    port = free_port()
    changes = {
        "listen-tls.conf": {"listen 8443 ssl": f"listen 127.0.0.1:{port} ssl"},
        "tls.conf": {"/secrets/tls": str(tmp_path)},
    }
    with served(postgres_url) as tailrace:
        async with proxy(nginx_path, tailrace.url, changes=changes, configuration="tls.conf"):
            await open_at_once(tailrace, page, f"https://127.0.0.1:{port}", tmp_path / "certificate.pem")


async def open_at_once(tailrace: Served, page: Page, url: str, certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert page.context.browser is not None
    context = await page.context.browser.new_context(ignore_https_errors=True)
    async with httpx.AsyncClient(base_url=url, verify=trusting, timeout=30) as client:
        run_id, token = await lease(client)
        own = await context.new_page()
        await own.goto(url)
        watchers = [EventSourceWatcher(f"{url}{RUNS}/{run_id}/stream", own) for _ in range(STREAMS)]
        for watcher in watchers:
            await watcher.begin()
        for watcher in watchers:
            await watcher.until(lambda watcher: any(frame.type == "live" for frame in watcher.frames))
        await append(client, run_id, token)
        await finish(client, run_id, token)
        for watcher in watchers:
            await watcher.until(lambda watcher: watcher.has_ended)
        stored = [frame.id for frame in await events_of(client, run_id)]
        assert [[frame.id for frame in watcher.events] for watcher in watchers] == [stored] * STREAMS
        protocols = "performance.getEntriesByType('navigation').map((entry) => entry.nextHopProtocol)"
        assert await own.evaluate(protocols) == ["h2"]
    await context.close()
