"""What the tests of previews share: programs that do as they are told, and short words for what is asked of them."""

import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
import msgspec

from services.previews.events import TERMINAL
from services.previews.supervisor import proc
from shared.protocol.sse import SseMessage
from tests.support.contract import Frame, Socket, problem_of, socket
from tests.support.readers import eventually
from tests.support.runs import PatientStream
from tests.support.runs import sse as patient_sse
from tests.support.server import Server

PREVIEWS = "/api/v1/previews"
NO_PREVIEW = "There is no such preview."

# Answers on the socket it was started with. What stands after the ? is done, and what that sets `answer` to is told.
SERVE = """\
import os, signal, socket, sys, threading, time
from urllib.parse import unquote
status = {"/health": 200}
print("serving", flush=True)
with socket.socket(fileno=3) as listener:
    while True:
        connection, _ = listener.accept()
        with connection:
            target = connection.recv(65536).split()[1].decode()
            path, _, told = target.partition("?")
            answer = ""
            exec(unquote(told))
            code, body = status.get(path, 200), str(answer).encode()
            connection.sendall(b"HTTP/1.1 %d x\\r\\ncontent-length: %d\\r\\nconnection: close\\r\\n\\r\\n%b"
                               % (code, len(body), body))
"""
# Ready, prints what it is given, and goes on until it is stopped.
LITESTAR = """\
from litestar import Litestar, get

@get("/")
async def index() -> str:
    print("somebody is here")
    return "from a program"

app = Litestar([index])
"""

_runs = secrets.token_hex(3)
_numbers = itertools.count(1)


def new_generation(what: str = "gen") -> str:
    """An id that no other test has."""
    return f"{what}-{_runs}-{next(_numbers)}"


def preview_url(generation: str) -> str:
    return f"/api/v1/generations/{quote(generation, safe='')}/preview"


def python(code: str) -> list[str]:
    """The command that runs it."""
    return ["python", "-c", code]


def recipe(code: str = SERVE, **fields: Any) -> dict[str, Any]:
    """The body for a program of kind `command` in Python; what is named otherwise wins."""
    return {"files": {}, "kind": "command", "command": python(code), **fields}


async def launch(client: httpx.AsyncClient, generation: str, code: str = SERVE, **fields: Any) -> dict[str, Any]:
    """A preview, as its launch was answered."""
    answer = await client.post(preview_url(generation), json=recipe(code, **fields))
    assert answer.status_code == 202, answer.text
    preview: dict[str, Any] = answer.json()
    return preview


async def running(client: httpx.AsyncClient, generation: str, code: str = SERVE, **fields: Any) -> dict[str, Any]:
    """A preview that answers."""
    await launch(client, generation, code, **fields)
    return await reached(client, generation, "running")


async def get(client: httpx.AsyncClient, generation: str) -> dict[str, Any]:
    answer = await client.get(preview_url(generation))
    assert answer.status_code == 200, answer.text
    preview: dict[str, Any] = answer.json()
    return preview


async def reached(client: httpx.AsyncClient, generation: str, status: str, *, attempt: int = 1) -> dict[str, Any]:
    """The preview once it has been told to be in this status; one that has ended otherwise fails the test."""
    async with sse(client, generation, after="start", types="preview_status") as stream:
        await stream.until(is_status(status, attempt))
    return await get(client, generation)


async def ended(client: httpx.AsyncClient, generation: str) -> dict[str, Any]:
    """The preview when it has ended."""
    await read_to_end(client, generation, types="preview_status", after="start")
    preview = await get(client, generation)
    assert preview["status"] in TERMINAL
    return preview


async def stop(client: httpx.AsyncClient, generation: str) -> dict[str, Any]:
    """Stop it; the preview when it has ended."""
    answer = await client.delete(preview_url(generation))
    assert answer.status_code == 202, answer.text
    return await ended(client, generation)


async def restart(client: httpx.AsyncClient, generation: str) -> dict[str, Any]:
    answer = await client.post(f"{preview_url(generation)}/restart")
    assert answer.status_code == 202, answer.text
    preview: dict[str, Any] = answer.json()
    return preview


async def tell(client: httpx.AsyncClient, generation: str, code: str) -> str:
    """Have a program that serves execute this; what it sets `answer` to."""
    answer = await client.get(f"{preview_url(generation)}/app/tell?{quote(code, safe='')}")
    assert answer.status_code == 200, answer.text
    return answer.text


async def change(client: httpx.AsyncClient, generation: str, **files: Any) -> httpx.Response:
    return await client.patch(f"{preview_url(generation)}/files", json={"files": files})


async def listed(client: httpx.AsyncClient, **params: Any) -> tuple[list[dict[str, Any]], str]:
    """All previews that a list shows, page after page, and the first page's `as_of`."""
    found: list[dict[str, Any]] = []
    as_of: str | None = None
    while True:
        page = (await client.get(PREVIEWS, params=params)).raise_for_status().json()
        found += page["data"]
        as_of = as_of or page["as_of"]
        if page["next_cursor"] is None:
            return found, as_of
        params["cursor"] = page["next_cursor"]


async def refused(answer: httpx.Response, status: int) -> str:
    """What the refusal says."""
    return str(problem_of(answer, status)["detail"])


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def sse(
    client: httpx.AsyncClient, generation: str, *, headers: Mapping[str, str] | None = None, **params: Any
) -> AsyncIterator[PatientStream]:
    """The preview's stream."""
    url = f"{preview_url(generation)}/logs/stream"
    async with patient_sse(client, url, params=params, headers=headers) as stream:
        yield stream


async def read_to_end(client: httpx.AsyncClient, generation: str, **options: Any) -> list[SseMessage]:
    """All messages of the stream, up to its end."""
    async with sse(client, generation, **options) as stream:
        return await stream.rest()


Transport = Literal["sse", "tailrace.v1", "tailrace.v1.msgpack", "channels"]
TRANSPORTS: tuple[Transport, ...] = ("sse", "tailrace.v1", "tailrace.v1.msgpack", "channels")


async def frames_to_end(url: str, transport: Transport, generation: str, **params: Any) -> list[Frame]:
    """All frames of the stream over this transport, up to its end."""
    if transport == "sse":
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            messages = await read_to_end(client, generation, **params)
        return [Frame(message.id, msgspec.json.decode(message.data)) for message in messages]
    async with socket_of(url, transport, generation, **params) as opened:
        ref = "mine" if transport == "channels" else None
        frames = await opened.until_type("stream_end", ref)
    assert {frame.ref for frame in frames} == {ref}
    return [Frame(frame.id, frame.event) for frame in frames]


@asynccontextmanager
async def socket_of(url: str, transport: Transport, generation: str, **params: Any) -> AsyncIterator[Socket]:
    """The preview's stream over a WebSocket, alone or as one of several."""
    base = url.replace("http", "ws", 1)
    if transport == "channels":
        async with socket(f"{base}{PREVIEWS}/ws") as opened:
            await opened.send({"op": "follow", "ref": "mine", "channel": f"preview/{generation}", **params})
            yield opened
        return
    query = str(httpx.QueryParams(params))
    async with socket(f"{base}{preview_url(generation)}/logs/stream?{query}", subprotocol=transport) as opened:
        yield opened


def event_of(message: SseMessage) -> dict[str, Any]:
    """A message's event; its name must be the event's type, and the primary type has none."""
    event: dict[str, Any] = msgspec.json.decode(message.data)
    assert message.event == ("message" if event["type"] == "log" else event["type"])
    return event


def events_of(messages: Sequence[SseMessage], *types: str) -> list[dict[str, Any]]:
    """The events of these types."""
    return [event for message in messages if (event := event_of(message))["type"] in types]


def statuses(messages: Sequence[SseMessage]) -> list[str]:
    return [str(event["status"]) for event in events_of(messages, "preview_status")]


def is_status(status: str, attempt: int = 1) -> Callable[[SseMessage], bool]:
    def tell(message: SseMessage) -> bool:
        event = event_of(message)
        return event["type"] == "preview_status" and (event["status"], event["attempt"]) == (status, attempt)

    return tell


def is_line(text: str, **fields: Any) -> Callable[[SseMessage], bool]:
    """Tells whether a message is a final line of this text, and has these fields."""

    def tell(message: SseMessage) -> bool:
        event = event_of(message)
        fits = event["type"] == "log" and not event["partial"] and event["message"] == text
        return fits and all(event[name] == value for name, value in fields.items())

    return tell


def is_live(message: SseMessage) -> bool:
    return message.event == "live"


# ── output ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def stored_logs(client: httpx.AsyncClient, generation: str) -> list[dict[str, Any]]:
    """All stored `log` events, in the order of the log, as polling has them."""
    found: list[dict[str, Any]] = []
    after = "start"
    while True:
        params: dict[str, Any] = {"after": after, "types": "log", "limit": 1000}
        page = (await client.get(f"{preview_url(generation)}/logs/events", params=params)).raise_for_status().json()
        found += [frame["event"] for frame in page["data"]]
        if page["next"] == page["head"] or not page["data"]:
            return found
        after = page["next"]


def printed(events: Sequence[dict[str, Any]], stream: str | None = None) -> list[str]:
    """The lines that a program has printed: final pieces, those of a line put together."""
    lines: dict[int, str] = {}
    for event in events:
        if event["source"] == "preview" and not event["partial"] and event["stream"] in (stream or event["stream"],):
            lines[event["line"]] = lines.get(event["line"], "") + event["message"]
    return [lines[line] for line in sorted(lines)]


async def page_of(client: httpx.AsyncClient, generation: str, **params: Any) -> dict[str, Any]:
    answer = await client.get(f"{preview_url(generation)}/logs", params=params)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def download(client: httpx.AsyncClient, generation: str, **params: Any) -> str:
    """Its output as plain text."""
    headers = {"accept": "text/plain"}
    answer = await client.get(f"{preview_url(generation)}/logs", params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return answer.content.decode()


# ── what is left ───────────────────────────────────────────────────────────────────────────────────────────────


def processes_of(preview_id: str) -> list[int]:
    """The processes of a preview, its supervisor too: all have its id in their environment."""
    wanted = f"{proc.MARKER}={preview_id}.".encode()

    def is_of_it(pid: int) -> bool:
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            return any(entry.startswith(wanted) for entry in environment)
        return False

    return [process.pid for process in proc.everything() if is_of_it(process.pid)]


def files_of(server: Server, preview_id: str) -> list[Path]:
    """Whatever has the preview's id in its path."""
    names = (preview_id, preview_id.replace("_", "-"))
    return [path for path in (server.data_directory / "previews").rglob("*") if any(n in str(path) for n in names)]


async def nothing_is_left(server: Server, *preview_ids: str) -> None:
    """Wait until there is no process and no file of these previews."""
    left: list[object] = []

    def none_is_left() -> bool:
        left[:] = [each for one in preview_ids for each in (*processes_of(one), *files_of(server, one))]
        return not left

    try:
        await eventually(none_is_left, f"processes and files of {preview_ids} are gone", seconds=20)
    except AssertionError:
        raise AssertionError(f"left: {left}") from None
