"""The pages: one frame around the content of each, and the plain files that they are made of.

A file lies where its owner is and is served below `/web`:

    shared/web/             /web/shared/<file>      what all pages share: the frame, base.css, modules
    services/web/           /web/start/<file>       the start page
    services/<name>/web/    /web/<name>/<file>      the pages of a service

In each of the latter `page.html` is the content of the page, `page.js` its module, and `page.css` its style if it needs
one of its own. A page shows what its address says: `/tasks/<id>` is the same document as `/tasks`.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

import shared
from shared.edge.problems import MEDIA_TYPE, http_document
from shared.edge.settings import Settings

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "shared": ROOT / "shared" / "web",
    "start": ROOT / "services" / "web",
    **{name: ROOT / "services" / name / "web" for name in ("tasks", "runs", "previews")},
}
TITLES = {"start": "Now", "tasks": "Tasks", "runs": "Runs", "previews": "Previews"}
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HTML = "text/html; charset=utf-8"
JSON = "application/json"

_PAGE = re.compile(r"/(?:(tasks|runs|previews)(?:/[^/]+)?)?")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")  # nothing that could end a directive; a policy knows no IPv6 addresses


class Config(Struct, frozen=True):
    """What the pages have to know of the process that serves them."""

    auth: str
    token_url: str | None
    websockets: bool
    preview_domain: str
    version: str = shared.__version__


class Answer(Struct, frozen=True):
    """A body and what it is."""

    body: bytes
    media_type: str

    @property
    def etag(self) -> bytes:
        return b'"' + hashlib.sha256(self.body).hexdigest()[:32].encode() + b'"'


class Pages:
    """An ASGI application: the pages, their files and what they are told; 404 for anything else.

    Which files there are is found out once, here; nothing else can be asked for. What is in them is read anew for each
    request: they are small, and who works on a page sees a change at the next reload.
    """

    def __init__(self, settings: Settings) -> None:
        self._config = msgspec.json.encode(
            Config(settings.auth, settings.token_url or None, settings.websockets, settings.preview_domain)
        )
        self._files = {
            f"/web/{name}/{file.name}": file
            for name, folder in FOLDERS.items()
            for file in sorted(folder.iterdir())
            if file.suffix in MEDIA_TYPES
        }
        self._frames = _origin(settings.public_url, f"*.{settings.preview_domain}")
        self._tokens = _origin(settings.token_url) if "://" in settings.token_url else ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status, body, headers = self._answer(scope)
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
        await send({"type": f"{kind}.start", "status": status, "headers": headers})
        await send({"type": f"{kind}.body", "body": body})

    def _answer(self, scope: Any) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        found = self._find(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            return _refusal(404, f"There is nothing at {scope['path'][:200]}.", scope)
        if scope["method"] not in ("GET", "HEAD"):
            status, body, headers = _refusal(405, "A page can only be looked at: GET or HEAD.", scope)
            return status, body, [*headers, (b"allow", b"GET, HEAD")]
        asked = dict(scope["headers"])
        headers = [(b"etag", found.etag), *self._headers(asked.get(b"host", b""))]
        if found.etag in (tag.strip().removeprefix(b"W/") for tag in asked.get(b"if-none-match", b"").split(b",")):
            return 304, b"", headers
        return 200, found.body, [(b"content-type", found.media_type.encode()), *headers]

    def _find(self, path: str) -> Answer | None:
        if (page := _PAGE.fullmatch(path)) is not None:
            return Answer(self._document(page[1] or "start"), HTML)
        if path == "/config.json":
            return Answer(self._config, JSON)
        file = self._files.get(path)
        return None if file is None else Answer(file.read_bytes(), MEDIA_TYPES[file.suffix])

    def _document(self, name: str) -> bytes:
        """The frame with a page's content in it."""
        frame = Template((FOLDERS["shared"] / "frame.html").read_text("utf-8"))
        own_style = f"/web/{name}/page.css"
        style = f'<link rel="stylesheet" href="{own_style}">' if own_style in self._files else ""
        current = {f"{page}_current": ' aria-current="page"' if page == name else "" for page in TITLES}
        main = (FOLDERS[name] / "page.html").read_text("utf-8")
        filled = frame.substitute(
            name=name, title=TITLES[name], style=style, main=main, version=shared.__version__, **current
        )
        return filled.encode()

    def _headers(self, host: bytes) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in {**HEADERS, **self._policy(host)}.items()]

    def _policy(self, host: bytes) -> Mapping[str, str]:
        """A page runs our modules and asks this service; text can't become code, and a preview shows in a frame."""
        own = host.decode("latin-1")
        sockets = f" ws://{own} wss://{own}" if _HOST.fullmatch(own) else ""  # not every browser's 'self' has them
        policy = {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self'",
            "connect-src": f"'self'{sockets} {self._tokens}".strip(),
            "frame-src": self._frames,
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
        }
        return {"content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items())}


HEADERS = {
    "cache-control": "no-cache",
    "vary": "Host",  # the policy names it
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


def _origin(url: str, host: str = "") -> str:
    """The origin of a URL as a policy names it, or of another host beside it."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme or 'http'}://{host or parts.hostname}{port}"


def _refusal(status: int, detail: str, scope: Any) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    shown = http_document(status, detail, {}, scope["tailrace.request_id"])
    return shown.status, shown.body, [(b"content-type", MEDIA_TYPE.encode())]
