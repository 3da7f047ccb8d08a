"""The pages: plain files, with a policy that lets them run and ask nothing but ourselves."""

from pathlib import Path
from typing import Any

from shared.edge.problems import MEDIA_TYPE, http_document

WEB = Path(__file__).parent / "web"
MEDIA_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
FILES = {
    "/": "index.html",
    "/base.css": "base.css",
    "/follow.js": "follow.js",
    "/icon.svg": "icon.svg",
    "/start.js": "start.js",
}
HEADERS = [
    (b"cache-control", b"no-cache"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that serves the pages' files; 404 for anything else."""
    name = FILES.get(scope["path"])
    if name is None or scope["type"] != "http":
        status, body, headers = _refusal(404, f"There is nothing at {scope['path'][:200]}.", scope)
    elif scope["method"] not in ("GET", "HEAD"):
        status, body, headers = _refusal(405, "A page can only be looked at: GET or HEAD.", scope)
        headers = [*headers, (b"allow", b"GET, HEAD")]
    else:
        media_type = MEDIA_TYPES[Path(name).suffix]
        status, body, headers = 200, (WEB / name).read_bytes(), [(b"content-type", media_type), *HEADERS]
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


def _refusal(status: int, detail: str, scope: Any) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    shown = http_document(status, detail, {}, scope["tailrace.request_id"])
    return shown.status, shown.body, [(b"content-type", MEDIA_TYPE.encode())]
