"""Keys from a URL: a JWK set (RFC 7517), fetched when it is needed, and kept.

Whoever signs tokens changes its keys from time to time: a key's name (`kid`) that is new here leads to a fetch, at most
one every `REFETCH_SECONDS`, however many tokens come with it, made up ones included. A URL that does not answer, or
answers nonsense, takes no key away until `STALE_SECONDS` have gone by: the tokens it signed would all be refused.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from shared.channel.tasks import end
from shared.edge.auth.keys import ASYMMETRIC, Key, KeysUnavailable, UnfitKey, jwk_key, narrowed

log = logging.getLogger("tailrace.auth")

TTL_SECONDS = 300.0
REFETCH_SECONDS = 10.0
STALE_SECONDS = 24 * 3600.0  # an issuer that is away for longer than its tokens live has nobody left to be refused
FETCH_SECONDS = 5.0  # all of a fetch, however slowly it trickles in
MAX_BYTES = 256 * 1024
MAX_KEYS = 100

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Answer(Struct, frozen=True):
    """A JWK set. Members it may have beside are for others."""

    keys: list[dict[str, Any]]


class BadAnswer(Exception):
    """What came is no JWK set."""


class Jwks:
    """The keys of one URL. `clock` is monotonic. Nothing runs until somebody asks; `aclose` ends what does."""

    def __init__(
        self,
        url: str,
        allowed: Sequence[str] = (),
        *,
        ttl_seconds: float = TTL_SECONDS,
        refetch_seconds: float = REFETCH_SECONDS,
        stale_seconds: float = STALE_SECONDS,
        fetch_seconds: float = FETCH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.algorithms = narrowed(ASYMMETRIC, allowed)
        self._host = check_url(url)
        self._url = url
        self._ttl_seconds = ttl_seconds
        self._refetch_seconds = refetch_seconds
        self._stale_seconds = stale_seconds
        self._fetch_seconds = fetch_seconds
        self._clock = clock
        # a redirect would lead to keys of somebody else; identity, so that what is counted is what there is
        self._http = httpx.AsyncClient(
            follow_redirects=False,
            timeout=fetch_seconds,
            headers={"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"},
        )
        self._keys: tuple[Key, ...] = ()
        self._fetched: float | None = None  # when the last fetch that worked was begun
        self._tried: float | None = None
        self._failing = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key of this name that goes with the algorithm; without a name, the only one that does. None: there is
        none. Raise KeysUnavailable when that cannot be known now.
        """
        if self._age() >= self._ttl_seconds:
            self._begin()
        key = self._choose(kid, algorithm)
        # A fetch that is due does not hold up what is known already, unless nobody has asked for very long.
        if key is not None and (self._age() < 2 * self._ttl_seconds or self._failing):
            return key
        self._begin()
        await self._fetched_by_now()
        key = self._choose(kid, algorithm)
        if key is None and (self._failing or self._age() >= self._stale_seconds):
            raise KeysUnavailable("the keys that tokens are checked with cannot be fetched now; try again soon")
        return key

    async def aclose(self) -> None:
        """End what is under way."""
        await end(self._fetching)
        await self._http.aclose()

    def failing(self) -> str:
        """Why `/ready` should complain: the last fetch failed. Empty when all is well."""
        return f"the keys of {self._host} cannot be fetched" if self._failing else ""

    # ── keys ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _choose(self, kid: str | None, algorithm: str) -> Key | None:
        if self._age() >= self._stale_seconds:
            return None
        fitting = [key for key in self._keys if algorithm in key.algorithms and kid in (None, key.kid)]
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None

    def _age(self) -> float:
        return float("inf") if self._fetched is None else self._clock() - self._fetched

    # ── fetching ───────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        """Begin a fetch, if none is under way and the last one was long enough ago."""
        if self._fetching is not None and not self._fetching.done():
            return
        now = self._clock()
        if self._tried is None or now - self._tried >= self._refetch_seconds:
            self._tried = now
            self._fetching = asyncio.create_task(self._fetch(now), name="jwks")

    async def _fetched_by_now(self) -> None:
        """Wait for the fetch under way, which is not ours alone: who is cancelled leaves it to the others."""
        if self._fetching is not None:
            await asyncio.wait([self._fetching])

    async def _fetch(self, now: float) -> None:
        try:
            async with asyncio.timeout(self._fetch_seconds):
                body = await self._download()
            self._keys = read_keys(body, tuple(self.algorithms))
            self._fetched, self._failing = now, False
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait get an answer, and the old keys stay
            self._failing = True
            reason = str(error) if isinstance(error, BadAnswer) else type(error).__name__
            log.warning("the keys for tokens could not be fetched", extra={"host": self._host, "reason": reason})

    async def _download(self) -> bytes:
        async with self._http.stream("GET", self._url) as response:
            if response.status_code != 200:
                raise BadAnswer(f"the answer is {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_raw():  # what is compressed all the same is no JSON
                body += chunk
                if len(body) > MAX_BYTES:
                    raise BadAnswer(f"the answer is longer than {MAX_BYTES} bytes")
            return bytes(body)


def check_url(url: str) -> str:
    """The URL's host, for messages. Raise UnfitKey for one that is none, or that has a password in it."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        raise UnfitKey("the address of the keys is no URL; give one that begins with https://") from None
    if parts.scheme not in ("https", "http") or not parts.host:
        raise UnfitKey("the address of the keys is no URL; give one that begins with https://")
    if parts.userinfo:
        raise UnfitKey("the address of the keys has a name or a password in it, which would get around; leave it out")
    if parts.scheme == "http" and parts.host not in LOOPBACK:
        log.warning("the keys for tokens come over plain HTTP: whoever is in between can make tokens")
    return parts.host


def read_keys(body: bytes, allowed: Sequence[str]) -> tuple[Key, ...]:
    """The keys that are of use here. A set without one is an answer too: its owner wants no token taken. Raise
    BadAnswer for what is no JWK set.
    """
    try:
        answer = msgspec.json.decode(body, type=Answer)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadAnswer("the answer is no JWK set") from None
    if len(answer.keys) > MAX_KEYS:
        raise BadAnswer(f"the answer has more than {MAX_KEYS} keys")
    keys = [key for jwk in answer.keys if (key := _fit(jwk, allowed)) is not None]
    if not keys:
        log.warning("none of the keys that were fetched can be used", extra={"keys": len(answer.keys)})
    return tuple(keys)


def _fit(jwk: Mapping[str, Any], allowed: Sequence[str]) -> Key | None:
    try:
        return jwk_key(jwk, allowed)
    except UnfitKey:
        return None
