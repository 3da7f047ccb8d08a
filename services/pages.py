"""The start page."""

from pathlib import Path
from typing import Any

from shared.edge.problems import MEDIA_TYPE, http_document

WEB = Path(__file__).parent / "web"
FILES = {"/": ("index.html", b"text/html; charset=utf-8")}
HEADERS = [
    (b"cache-control", b"no-cache"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that serves the pages' files; 404 for anything else."""
    name, media_type = FILES.get(scope["path"], ("", b""))
    if not name or scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        shown = http_document(404, f"There is nothing at {scope['path'][:200]}.", {}, scope["tailrace.request_id"])
        status, body, headers = shown.status, shown.body, [(b"content-type", MEDIA_TYPE.encode())]
    else:
        status, body, headers = 200, (WEB / name).read_bytes(), [(b"content-type", media_type), *HEADERS]
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
