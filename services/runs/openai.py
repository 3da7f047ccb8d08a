"""The `openai` runner: supervisor, writers in parallel, reviewer, on any OpenAI-compatible chat endpoint."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from services.runs.events import cut_snippet
from services.runs.model import Run
from services.runs.reporting import Reporter
from shared.protocol.sse import SseDecoder

ATTEMPTS = 4
BACK_OFF_SECONDS = (0.5, 10.0)
TELL_SECONDS = 0.1  # between two updates of one worker
CHARACTERS_PER_TOKEN = 4  # the usual guess where the endpoint counts nothing
TIMEOUT = httpx.Timeout(60, connect=10)
MAX_MESSAGE_CHARACTERS = 500
MAX_ANSWER_CHARACTERS = 200_000
MAX_STREAM_BYTES = 32 * 1024 * 1024  # with the JSON around each word, and reasoning that is not shown
MAX_REFUSAL_BYTES = 64 * 1024
SHORTEST_SECRET = 8  # local endpoints take any key, such as `none`; there is nothing in it to hide


class Endpoint(Struct, frozen=True):
    """Where the model is asked. The key is never shown."""

    base_url: str
    model: str
    api_key: str = ""

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r}, {self.model!r})"


class UpstreamError(Exception):
    """The endpoint refused or broke off. `code` says how; `retry` whether it may go better another time."""

    def __init__(self, code: str, message: str, *, retry: bool, after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry = retry
        self.after = after


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Fault(Struct):
    message: str = "the endpoint reports an error"


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Fault | str | None = None


class Answer(Struct):
    """What came so far. Counts are estimates until the endpoint has given its own."""

    text: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None

    @property
    def estimated(self) -> bool:
        return self.tokens_out is None


_chunk_decoder = msgspec.json.Decoder(_Chunk)


class OpenAiRunner:
    """`client` makes an httpx client per run, so that a cancelled run takes its connections with it."""

    def __init__(self, endpoint: Endpoint, *, back_off: tuple[float, float] = BACK_OFF_SECONDS) -> None:
        self._endpoint = endpoint
        self._back_off = back_off

    async def __call__(self, run: Run, reporter: Reporter) -> str:
        headers = {"authorization": f"Bearer {self._endpoint.api_key}"} if self._endpoint.api_key else {}
        async with httpx.AsyncClient(headers=headers, timeout=TIMEOUT) as client:
            work = _Conversation(self._endpoint, self._back_off, client, run, reporter)
            return await work.run()


class _Conversation:
    def __init__(
        self,
        endpoint: Endpoint,
        back_off: tuple[float, float],
        client: httpx.AsyncClient,
        run: Run,
        reporter: Reporter,
    ) -> None:
        self._url = endpoint.base_url.rstrip("/") + "/chat/completions"
        self._model = endpoint.model
        self._key = endpoint.api_key
        self._back_off = back_off
        self._client = client
        self._run = run
        self._reporter = reporter

    async def run(self) -> str:
        task, count = self._run.task, self._run.workers
        plan = await self._ask(
            "supervisor", "supervisor", f"Plan this task in {count} part(s), one a line, nothing else:\n\n{task}"
        )
        parts = [line for line in plan.splitlines() if line.strip()] or [task]
        frame = f"The task:\n{task}\n\nThe plan:\n{plan}\n\nDo this part of it:\n"
        drafts = await self._write([frame + parts[number % len(parts)] for number in range(count)])
        draft = "\n\n".join(drafts)
        return await self._ask(
            "reviewer", "reviewer", f"The task:\n{task}\n\nThe draft:\n{draft}\n\nReturn the finished text, corrected."
        )

    async def _write(self, prompts: Sequence[str]) -> list[str]:
        """All writers at once; the first that fails ends the others."""
        try:
            async with asyncio.TaskGroup() as group:
                writers = [
                    group.create_task(self._ask("writer", f"writer-{number}", prompt))
                    for number, prompt in enumerate(prompts, start=1)
                ]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [writer.result() for writer in writers]

    async def _ask(self, node: str, worker: str, prompt: str) -> str:
        """One answer; asked again, after a growing pause, while that may help. Raise UpstreamError."""
        attempt = 1
        while True:
            try:
                return await self._attempt(node, worker, prompt, attempt)
            except UpstreamError as error:
                if not error.retry or attempt >= ATTEMPTS:
                    raise
                await self._reporter.error(error.code, str(error), fatal=False, attempt=attempt, node=node)
                await asyncio.sleep(self._pause(attempt, error.after))
                attempt += 1

    def _pause(self, attempt: int, asked: float | None) -> float:
        first, longest = self._back_off
        pause = min(longest, first * 2.0 ** (attempt - 1)) * random.uniform(0.75, 1.25)
        return max(pause, min(asked or 0.0, 30.0))

    async def _attempt(self, node: str, worker: str, prompt: str, attempt: int) -> str:
        loop = asyncio.get_running_loop()
        answer, told = Answer(), loop.time()
        await self._tell(node, worker, answer, attempt, prompt, phase="ask")
        async with aclosing(self._stream(prompt)) as chunks:
            async for chunk in chunks:
                _take(answer, chunk)
                if loop.time() - told >= TELL_SECONDS:
                    told = loop.time()
                    await self._tell(node, worker, answer, attempt, prompt, phase="generate")
        await self._tell(node, worker, answer, attempt, prompt, phase="done")
        return answer.text

    async def _tell(self, node: str, worker: str, answer: Answer, attempt: int, prompt: str, *, phase: str) -> None:
        tokens_in = answer.tokens_in if answer.tokens_in is not None else _guess(prompt)
        tokens_out = answer.tokens_out if answer.tokens_out is not None else _guess(answer.text)
        await self._reporter.node(
            node,
            agent=node,
            worker_id=worker,
            phase=phase,
            iteration=attempt,
            model=self._model,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            estimated=answer.estimated,
            snippet=cut_snippet(answer.text[-200:]) or None,
        )

    # ── the endpoint ───────────────────────────────────────────────────────────────────────────────────────────

    async def _stream(self, prompt: str) -> AsyncGenerator[_Chunk, None]:
        """The chunks of one answer. Raise UpstreamError."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with self._client.stream("POST", self._url, json=body) as response:
                if response.status_code != 200:
                    raise self._refusal(response, await _beginning(response))
                decoder = SseDecoder()
                async for data in response.aiter_bytes():
                    for message in decoder.decode(data):
                        if message.data.strip() == "[DONE]":
                            return
                        yield self._decode(message.data)
                    if response.num_bytes_downloaded > MAX_STREAM_BYTES:
                        text = f"the endpoint's answer is longer than {MAX_STREAM_BYTES} bytes"
                        raise UpstreamError("upstream_too_long", text, retry=False)
        except httpx.TimeoutException:
            raise UpstreamError("upstream_timeout", "the endpoint did not answer in time", retry=True) from None
        except httpx.HTTPError as error:
            text = f"the connection to the endpoint failed: {self._hide(str(error)) or type(error).__name__}"
            raise UpstreamError("upstream_connection", text, retry=True) from None
        raise UpstreamError("upstream_cut_off", "the endpoint ended its answer before it was complete", retry=True)

    def _decode(self, data: str) -> _Chunk:
        try:
            chunk = _chunk_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            text = f"the endpoint sent a chunk that is not understood: {self._hide(data)[:80]!r}"
            raise UpstreamError("upstream_malformed", text, retry=True) from None
        if chunk.error is not None:
            message = chunk.error if isinstance(chunk.error, str) else chunk.error.message
            raise UpstreamError("upstream_error", self._hide(message)[:MAX_MESSAGE_CHARACTERS], retry=True)
        return chunk

    def _refusal(self, response: httpx.Response, body: bytes) -> UpstreamError:
        status = response.status_code
        retry = status in (408, 409, 425, 429) or status >= 500
        after = response.headers.get("retry-after", "")
        seconds = float(after) if after.isascii() and after.isdigit() else None
        words = self._hide(_words(body) or response.reason_phrase)[:MAX_MESSAGE_CHARACTERS]
        return UpstreamError(
            f"upstream_{status}", f"the endpoint answered {status}: {words}", retry=retry, after=seconds
        )

    def _hide(self, text: str) -> str:
        """Some endpoints, and some errors of the client, repeat the key."""
        return text.replace(self._key, "***") if len(self._key) >= SHORTEST_SECRET else text


def _take(answer: Answer, chunk: _Chunk) -> None:
    for choice in chunk.choices[:1]:
        if choice.delta is not None and choice.delta.content and len(answer.text) < MAX_ANSWER_CHARACTERS:
            answer.text += choice.delta.content
    if chunk.usage is not None:
        answer.tokens_in, answer.tokens_out = chunk.usage.prompt_tokens, chunk.usage.completion_tokens


async def _beginning(response: httpx.Response) -> bytes:
    """As much of a refusal's body as may hold its reason."""
    body = b""
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_REFUSAL_BYTES:
            break
    return body


def _words(body: bytes) -> str:
    """The endpoint's own words."""
    try:
        error: Any = msgspec.json.decode(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return body.decode(errors="replace").strip()


def _guess(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
