"""Requests: sent again only where that is safe, and answered with JSON or a typed error."""

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from shared.client.answers import Answer
from shared.client.backoff import pause
from shared.client.connection import Parameters, reason_of
from shared.client.credentials import Credentials
from shared.client.errors import Unavailable, Unreadable
from shared.client.http import Pool

PATIENCE_SECONDS = 30.0
CONNECT_SECONDS = 10.0
_REPEATABLE = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_NOT_CARRIED_OUT = (425, 429)  # refused before anything was done; a 503 may come after it


class Call(Struct, frozen=True, kw_only=True):
    """One request. `repeatable` None: as its method says. `on_retry` is told why, before each further attempt."""

    method: str
    path: str
    parameters: Parameters
    headers: Mapping[str, str]
    json: Any
    repeatable: bool | None
    patience_seconds: float | None
    timeout_seconds: float
    on_retry: Callable[[Unavailable], None] | None = None

    @property
    def may_be_sent_again(self) -> bool:
        return self.method in _REPEATABLE if self.repeatable is None else self.repeatable


class Caller:
    """Sends requests for a client."""

    def __init__(self, pool: Pool, credentials: Credentials) -> None:
        self._pool = pool
        self._credentials = credentials

    async def answer(self, call: Call) -> Any:
        """The JSON of the answer, after as many attempts as it takes. Raise Refused, Unavailable, Unreadable."""
        content = None if call.json is None else msgspec.json.encode(call.json)
        loop = asyncio.get_running_loop()
        deadline = None if call.patience_seconds is None else loop.time() + call.patience_seconds
        failures, unsure = 0, False
        while True:
            try:
                answer = await self._attempt(call, content)
            except _Later as later:
                trouble = later.trouble
                failures += 1
                unsure = unsure or trouble.may_have_happened
                seconds = pause(failures, random.random(), later.asked_seconds)
                if trouble.may_have_happened and not call.may_be_sent_again:
                    raise trouble from later
                if deadline is not None and loop.time() + seconds > deadline:
                    raise trouble from later
                if call.on_retry is not None:
                    call.on_retry(trouble)
                await asyncio.sleep(seconds)
                continue
            if unsure and call.method == "DELETE" and answer.status == 404:
                return None  # the attempt whose answer was lost has deleted it
            return _read(answer)

    async def _attempt(self, call: Call, content: bytes | None) -> Answer:
        """An answer that is not going to change. Raise _Later."""
        try:
            answer = await self._send(call, content)
        except httpx.RequestError as error:
            sent = not isinstance(error, _NOT_SENT)
            text = f"no answer to {call.method} {call.path}: {reason_of(error)}"
            if sent and not call.may_be_sent_again:
                text += "; it was sent, and nobody knows whether it was carried out"
            raise _Later(Unavailable(text, may_have_happened=sent)) from error
        if answer.is_transient:
            unsure = answer.status not in _NOT_CARRIED_OUT
            trouble = Unavailable(str(answer), status=answer.status, problem=answer.problem, may_have_happened=unsure)
            raise _Later(trouble, answer.retry_after(datetime.now(UTC)))
        if answer.status < 300 and answer.body and not answer.is_json:  # a proxy's page
            text = f"{call.method} {call.path} was answered {answer.status} with {answer.media_type or 'nothing'}"
            raise _Later(Unavailable(text, status=answer.status, may_have_happened=True))
        return answer

    async def _send(self, call: Call, content: bytes | None) -> Answer:
        """One answer; one more attempt with another token where the first was refused."""
        token = await self._credentials.current()
        answer = await self._send_with(token, call, content)
        if answer.status == 401 and await self._credentials.renew(token):
            answer = await self._send_with(await self._credentials.current(), call, content)
        return answer

    async def _send_with(self, token: str | None, call: Call, content: bytes | None) -> Answer:
        headers = {"accept": "application/json", **call.headers}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        if content is not None:
            headers["content-type"] = "application/json"
        async with self._pool.use() as http:
            response = await http.request(
                call.method,
                call.path,
                params=list(call.parameters),
                headers=headers,
                content=content,
                timeout=httpx.Timeout(call.timeout_seconds, connect=CONNECT_SECONDS, pool=None),
            )
        return Answer(response.status_code, response.headers, response.content)


class _Later(Exception):
    """No answer, or one that may be another one soon."""

    def __init__(self, trouble: Unavailable, asked_seconds: float | None = None) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble
        self.asked_seconds = asked_seconds


def _read(answer: Answer) -> Any:
    if answer.status >= 300:
        raise answer.error
    if not answer.body:
        return None
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"the server's JSON cannot be read ({error}): {answer.body[:60]!r}") from error
