"""The client of one Tailrace: it opens streams and sends requests."""

import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self
from weakref import WeakSet

import httpx

import shared
from shared.client.calls import PATIENCE_SECONDS, Call, Caller
from shared.client.connection import Open
from shared.client.credentials import Credentials, TokenSource
from shared.client.errors import Unavailable
from shared.client.follow import Follow, Plan, State
from shared.client.http import Pool
from shared.client.sse import open_sse
from shared.client.websocket import open_websocket
from shared.protocol.schema import Schema

Transport = Literal["sse", "websocket"]
Value = str | int | float | bool
Parameters = Mapping[str, Value | Sequence[Value] | None]

CONNECTIONS = httpx.Limits(max_connections=None, max_keepalive_connections=20)
HEADERS = {"user-agent": f"tailrace-client/{shared.__version__}"}


class Client:
    """Streams and requests of one Tailrace, with one token. Close it with `async with` or `aclose`.

    `token` is sent with everything; a function is asked for one, and again when the server refuses it. Redirects are
    not followed: a token does not go where nobody sent it. The environment's proxies are left alone unless
    `trust_env`: most buffer what should stream. `ssl_context` is for a certificate authority of one's own.
    """

    def __init__(
        self,
        url: str,
        *,
        token: TokenSource | None = None,
        transport: Transport = "sse",
        trust_env: bool = False,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} must begin with http:// or https://")
        self._transport: Transport = transport
        self._trust_env = trust_env
        self._ssl_context = ssl_context or httpx.create_ssl_context(trust_env=trust_env)  # takes 20 ms: one for all
        self._credentials = Credentials(token)
        self._pool = Pool(self._make_http)
        self._caller = Caller(self._pool, self._credentials)
        self._following: WeakSet[Follow] = WeakSet()
        self._closed = False

    def _make_http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            follow_redirects=False,
            headers=HEADERS,
            limits=CONNECTIONS,
            trust_env=self._trust_env,
            verify=self._ssl_context,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all streams and connections."""
        self._closed = True
        for stream in tuple(self._following):
            await stream.aclose()
        await self._pool.aclose()

    def follow(
        self,
        path: str,
        *,
        schema: Schema | None = None,
        after: str | None = None,
        types: Iterable[str] | None = None,
        params: Parameters | None = None,
        lossless: bool = False,
        on_reset: Literal["reset", "error"] = "reset",
        transport: Transport | None = None,
        give_up_after_seconds: float | None = None,
        on_state: Callable[[State], None] | None = None,
    ) -> Follow:
        """A stream, such as `/api/v1/runs/stream`, not yet connected.

        `after` is `start`, `now` or a position; without it the stream starts where it does by default. `types` may
        have globs. With `lossless` nothing is skipped, however far this reader falls behind. `schema` says what the
        events are decoded into; what it does not know comes as UnknownEvent. Without a connection for
        `give_up_after_seconds` Unavailable is raised; None: it tries for ever.
        """
        if self._closed:
            raise RuntimeError("this client is closed")
        parameters = _pairs(path, params)
        if types is not None:
            parameters.append(("types", ",".join(types)))
        if lossless:
            parameters.append(("lossless", "1"))
        if on_reset != "reset":
            parameters.append(("on_reset", on_reset))
        plan = Plan(path, parameters, after, schema, on_reset, give_up_after_seconds, on_state)
        stream = Follow(plan, self._opening(transport or self._transport), self._credentials)
        self._following.add(stream)
        return stream

    def _opening(self, transport: Transport) -> Open:
        if transport == "sse":
            return partial(open_sse, self._make_http)
        ssl_context = self._ssl_context if self.url.startswith("https") else None
        return partial(open_websocket, self.url, HEADERS, use_proxies=self._trust_env, ssl_context=ssl_context)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Parameters | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        repeatable: bool | None = None,
        patience_seconds: float | None = PATIENCE_SECONDS,
        timeout_seconds: float = 30.0,
        on_retry: Callable[[Unavailable], None] | None = None,
    ) -> Any:
        """The answer's JSON; None where it has no body. Raise Refused, Unavailable, Unreadable.

        What may be sent twice without a further effect is tried again while the server is away, for
        `patience_seconds` (None: for ever): GET, HEAD, OPTIONS, PUT, DELETE, what has an `idempotency_key`, and what
        the caller calls `repeatable`. Anything else only where it was certainly not carried out: no connection, 425,
        429. `timeout_seconds` is for one attempt; `on_retry` is told why, before each further one.
        """
        given = dict(headers or {})
        if idempotency_key is not None:
            given["idempotency-key"] = idempotency_key
            repeatable = True if repeatable is None else repeatable
        call = Call(
            method=method.upper(),
            path=path,
            parameters=_pairs(path, params),
            headers=given,
            json=json,
            repeatable=repeatable,
            patience_seconds=patience_seconds,
            timeout_seconds=timeout_seconds,
            on_retry=on_retry,
        )
        return await self._caller.answer(call)


def _pairs(path: str, params: Parameters | None) -> list[tuple[str, str]]:
    """The parameters, those in the path's own query first. A list stands for a parameter that is repeated."""
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is no path: give one such as /api/v1/runs/stream, the client knows its server")
    pairs = list(httpx.URL(path).params.multi_items())
    for name, value in (params or {}).items():
        if value is None:
            continue
        values = [value] if isinstance(value, str | int | float) else value
        pairs.extend((name, _text(one)) for one in values)
    return pairs


def _text(value: Value) -> str:
    return ("1" if value else "0") if isinstance(value, bool) else str(value)
