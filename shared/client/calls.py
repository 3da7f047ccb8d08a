"""Requests: sent again only where that is safe, and answered with JSON or a typed error."""

import asyncio
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from shared.client.answers import Answer
from shared.client.backoff import pause
from shared.client.connection import Parameters
from shared.client.credentials import Credentials
from shared.client.errors import Unavailable, Unreadable

PATIENCE_SECONDS = 30.0
CONNECT_SECONDS = 10.0
_REPEATABLE = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_NOT_CARRIED_OUT = (425, 429)  # refused before anything was done; a 503 may come after it


class Call(Struct, frozen=True, kw_only=True):
    """One request. `repeatable` None: as its method says."""

    method: str
    path: str
    parameters: Parameters
    headers: Mapping[str, str]
    json: Any
    repeatable: bool | None
    patience_seconds: float | None
    timeout_seconds: float

    @property
    def may_be_sent_again(self) -> bool:
        return self.method in _REPEATABLE if self.repeatable is None else self.repeatable


class Caller:
    """Sends requests for a client."""

    def __init__(self, http: httpx.AsyncClient, credentials: Credentials) -> None:
        self._http = http
        self._credentials = credentials

    async def answer(self, call: Call) -> Any:
        """The JSON of the answer, after as many attempts as it takes. Raise Refused, Unavailable, Unreadable."""
        content = None if call.json is None else msgspec.json.encode(call.json)
        loop = asyncio.get_running_loop()
        deadline = None if call.patience_seconds is None else loop.time() + call.patience_seconds
        failures, unsure = 0, False
        while True:
            answer, trouble = await self._attempt(call, content)
            if answer is not None and not answer.is_transient:
                if unsure and call.method == "DELETE" and answer.status == 404:
                    return None  # the attempt whose answer was lost has deleted it
                return _read(answer)
            unsure = unsure or trouble.may_have_happened
            failures += 1
            asked = None if answer is None else answer.retry_after(datetime.now(UTC))
            seconds = pause(failures, random.random(), asked)
            if trouble.may_have_happened and not call.may_be_sent_again:
                raise trouble
            if deadline is not None and loop.time() + seconds > deadline:
                raise trouble
            await asyncio.sleep(seconds)

    async def _attempt(self, call: Call, content: bytes | None) -> tuple[Answer | None, Unavailable]:
        """The answer, and what to raise if it is the last one and says "later"."""
        try:
            answer = await self._send(call, content)
        except httpx.RequestError as error:
            sent = not isinstance(error, _NOT_SENT)
            text = f"no answer to {call.method} {call.path}: {str(error) or type(error).__name__}"
            if sent and not call.may_be_sent_again:
                text += "; it was sent, and nobody knows whether it was carried out"
            return None, Unavailable(text, may_have_happened=sent)
        return answer, Unavailable(
            str(answer),
            status=answer.status,
            problem=answer.problem if answer.is_transient else {},
            may_have_happened=answer.status not in _NOT_CARRIED_OUT,
        )

    async def _send(self, call: Call, content: bytes | None) -> Answer:
        """One answer; one more attempt with another token where the first was refused."""
        token = await self._credentials.current()
        response = await self._send_with(token, call, content)
        if response.status_code == 401 and await self._credentials.renew(token):
            response = await self._send_with(await self._credentials.current(), call, content)
        return Answer(response.status_code, response.headers, response.content)

    async def _send_with(self, token: str | None, call: Call, content: bytes | None) -> httpx.Response:
        headers = {"accept": "application/json", **call.headers}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        if content is not None:
            headers["content-type"] = "application/json"
        return await self._http.request(
            call.method,
            call.path,
            params=list(call.parameters),
            headers=headers,
            content=content,
            timeout=httpx.Timeout(call.timeout_seconds, connect=CONNECT_SECONDS, pool=None),
        )


def _read(answer: Answer) -> Any:
    if answer.status >= 300:
        raise answer.error
    if not answer.body:
        return None
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"the server answered {answer.status} with {answer.media_type} that is no JSON") from error
