"""Keys from a URL: rotation, outages, and answers that are none."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from shared.edge.auth.jwks import MAX_BYTES, MAX_KEYS, Jwks
from shared.edge.auth.keys import KeysUnavailable
from shared.edge.auth.tokens import TokenRefused, Verifier
from tests.support.fake_issuer import FakeIssuer, fake_issuer
from tests.unit.edge.auth.sample import NOW, jwk, private_key, rules, token

TTL, REFETCH, STALE = 300.0, 10.0, 3600.0
FIRST, SECOND = "ES256", "rsa"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    """Serves the first key."""
    async with fake_issuer() as issuer:
        issuer.keys = [jwk(FIRST, kid="first")]
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def jwks(issuer: FakeIssuer, clock: Clock) -> AsyncIterator[Jwks]:
    async with keys_of(issuer, clock) as jwks:
        yield jwks


@asynccontextmanager
async def keys_of(issuer: FakeIssuer, clock: Clock, *allowed: str, fetch_seconds: float = 5.0) -> AsyncIterator[Jwks]:
    jwks = Jwks(
        issuer.url,
        allowed,
        ttl_seconds=TTL,
        refetch_seconds=REFETCH,
        stale_seconds=STALE,
        fetch_seconds=fetch_seconds,
        clock=clock,
    )
    try:
        async with asyncio.timeout(20):
            yield jwks
    finally:
        await jwks.aclose()


async def finds(jwks: Jwks, kid: str | None, algorithm: str = "ES256") -> bool:
    return await jwks.find(kid, algorithm) is not None


async def settled(jwks: Jwks) -> None:
    """Wait until no fetch is under way."""
    await jwks._fetched_by_now()


def rotate(issuer: FakeIssuer) -> None:
    issuer.keys = [jwk(SECOND, kid="second")]


# ── finding ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_is_checked_with_a_key_of_the_issuer(issuer: FakeIssuer) -> None:
    verifier = Verifier(rules(jwks_url=issuer.url), now=lambda: NOW)
    issuer.keys = [jwk("rsa", kid="a"), jwk("ES256", kid="b"), jwk("ed25519", kid="c")]
    for kind, algorithm, kid in (("rsa", "PS384", "a"), ("ES256", "ES256", "b"), ("ed25519", "EdDSA", "c")):
        made = token(private_key(kind), algorithm, {"kid": kid})
        assert (await verifier.verify(made)).owner == "ann"
    for kind, algorithm, kid in (("rsa", "RS256", "b"), ("ES256", "ES256", "a"), ("ES384", "ES384", "b")):
        with pytest.raises(TokenRefused):
            await verifier.verify(token(private_key(kind), algorithm, {"kid": kid}))
    with pytest.raises(TokenRefused):
        await verifier.verify(token("x" * 32, "HS256", {"kid": "a"}))
    await verifier.aclose()


async def test_keys_are_fetched_when_the_first_token_comes_and_then_kept(issuer: FakeIssuer, jwks: Jwks) -> None:
    assert issuer.asked == []
    for _ in range(5):
        assert await finds(jwks, "first")
    assert issuer.asked == ["/keys?secret=hunter2"]


async def test_any_number_of_tokens_at_once_lead_to_one_fetch(issuer: FakeIssuer, jwks: Jwks) -> None:
    issuer.gate.clear()
    asking = [asyncio.create_task(finds(jwks, kid)) for kid in ("first", "made up", None) for _ in range(30)]
    await issuer.came.wait()
    issuer.gate.set()
    assert [await task for task in asking] == [True] * 30 + [False] * 30 + [True] * 30
    assert len(issuer.asked) == 1


async def test_a_token_that_names_no_key_needs_one_that_alone_fits(issuer: FakeIssuer, jwks: Jwks) -> None:
    issuer.keys = [jwk("ES256", kid="a"), jwk("rsa", kid="b"), jwk("rsa-1024", kid="c"), jwk("ed25519")]
    assert await finds(jwks, None, "ES256")
    assert await finds(jwks, None, "RS256")
    assert await finds(jwks, None, "EdDSA")
    assert not await finds(jwks, "anything", "EdDSA")
    async with keys_of(issuer, Clock()) as others:
        issuer.keys.append(jwk("ed448", kid="d"))
        assert not await finds(others, None, "EdDSA")


async def test_keys_that_are_not_for_signatures_are_left_out(issuer: FakeIssuer, jwks: Jwks) -> None:
    issuer.keys = [
        jwk("ES256", kid="encryption", use="enc"),
        {"kty": "oct", "kid": "symmetric", "k": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg", "alg": "HS256"},
        {"kty": "AKP", "kid": "unknown", "alg": "ML-DSA-44", "pub": "AAAA"},
        {"kty": "RSA", "kid": "broken"},
        {},
        jwk("rsa-1024", kid="weak"),
        jwk("ES256", kid="good", use="sig"),
    ]
    assert await finds(jwks, "good")
    for kid in ("encryption", "symmetric", "unknown", "broken", "weak"):
        for algorithm in ("ES256", "HS256", "RS256", "none", "ML-DSA-44"):
            assert not await finds(jwks, kid, algorithm), (kid, algorithm)


async def test_settings_narrow_what_the_issuer_may_use(issuer: FakeIssuer, clock: Clock) -> None:
    issuer.keys = [jwk("ES256", kid="a"), jwk("rsa", kid="b")]
    async with keys_of(issuer, clock, "PS256") as jwks:
        assert await finds(jwks, "b", "PS256")
        assert not await finds(jwks, "b", "RS256")
        assert not await finds(jwks, "a", "ES256")


# ── rotation ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_key_is_fetched_when_its_first_token_comes(issuer: FakeIssuer, jwks: Jwks, clock: Clock) -> None:
    assert await finds(jwks, "first")
    rotate(issuer)
    clock.now += REFETCH
    assert await finds(jwks, "second", "RS256")
    assert not await finds(jwks, "first")
    assert len(issuer.asked) == 2


async def test_made_up_keys_lead_to_few_fetches(issuer: FakeIssuer, jwks: Jwks, clock: Clock) -> None:
    assert await finds(jwks, "first")
    for second in range(40):
        for number in range(5):
            assert not await finds(jwks, f"made up {second} {number}")
        clock.now += 1
    assert len(issuer.asked) == 4  # at 0, 10, 20 and 30 s


async def test_a_key_that_was_taken_away_is_refused_when_its_time_is_over(
    issuer: FakeIssuer, jwks: Jwks, clock: Clock
) -> None:
    assert await finds(jwks, "first")
    rotate(issuer)
    clock.now += TTL - 1
    assert await finds(jwks, "first")
    assert len(issuer.asked) == 1
    clock.now += 1
    assert await finds(jwks, "first")  # the fetch that is due holds nobody up
    await settled(jwks)
    assert not await finds(jwks, "first")
    assert len(issuer.asked) == 2


async def test_who_has_not_asked_for_long_waits_for_the_keys_of_today(
    issuer: FakeIssuer, jwks: Jwks, clock: Clock
) -> None:
    assert await finds(jwks, "first")
    rotate(issuer)
    clock.now += 2 * TTL
    assert not await finds(jwks, "first")


async def test_an_issuer_that_takes_all_keys_away_is_obeyed(issuer: FakeIssuer, jwks: Jwks, clock: Clock) -> None:
    assert await finds(jwks, "first")
    issuer.keys = []
    clock.now += 2 * TTL
    assert not await finds(jwks, "first")
    assert jwks.failing() == ""


# ── outages and nonsense ───────────────────────────────────────────────────────────────────────────────────────


def many_keys() -> bytes:
    return json.dumps({"keys": [{"kid": str(number)} for number in range(MAX_KEYS + 1)]}).encode()


GOOD = json.dumps({"keys": [jwk(SECOND, kid="second")]}).encode()
FAULTS: dict[str, dict[str, Any]] = {
    "refuses connections": {"fault": "refuse"},
    "says nothing": {"fault": "silent"},
    "drips": {"fault": "drip"},
    "is cut off": {"fault": "cut_off"},
    "fails": {"status": 500},
    "wants a password": {"status": 401},
    "has gone": {"status": 404},
    "has nothing new": {"status": 304},
    "says no content": {"status": 204, "body": b"", "headers": {"content-length": ""}},
    "redirects": {"status": 302, "headers": {"location": "/other"}},
    "redirects for good": {"status": 308, "headers": {"location": "/other"}},
    "sends nothing": {"body": b""},
    "sends a page": {"body": b"<html>Sign in</html>"},
    "sends half": {"body": GOOD[:-3]},
    "sends a list": {"body": b"[]"},
    "sends no keys": {"body": b'{"error":"sorry"}'},
    "sends keys that are no list": {"body": b'{"keys":{}}'},
    "sends keys that are no objects": {"body": b'{"keys":[5]}'},
    "sends bytes": {"body": b"\xff\x00" * 50},
    "sends a deep one": {"body": b'{"keys":' + b"[" * 20_000 + b"]" * 20_000 + b"}"},
    "sends a huge one": {"body": GOOD + b" " * MAX_BYTES},
    "sends too many": {"body": many_keys()},
    "compresses": {"body": gzip.compress(GOOD), "headers": {"content-encoding": "gzip"}},
    "sends a bomb": {"body": gzip.compress(GOOD + b" " * 50_000_000), "headers": {"content-encoding": "gzip"}},
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_while_the_issuer_is_unwell_the_old_keys_stay(issuer: FakeIssuer, clock: Clock, fault: str) -> None:
    async with keys_of(issuer, clock, fetch_seconds=0.3) as jwks:
        assert await finds(jwks, "first")
        rotate(issuer)
        for name, value in FAULTS[fault].items():
            setattr(issuer, name, value)
        clock.now += 2 * TTL
        assert await finds(jwks, "first")
        assert jwks.failing() == "the keys of 127.0.0.1 cannot be fetched"
        with pytest.raises(KeysUnavailable):
            await finds(jwks, "second", "RS256")
        assert len(issuer.asked) <= 2
        assert "/other" not in issuer.asked

        issuer.fault, issuer.status, issuer.body, issuer.headers = "", 200, None, {}
        clock.now += REFETCH
        assert await finds(jwks, "second", "RS256")
        assert not await finds(jwks, "first")
        assert jwks.failing() == ""


@pytest.mark.parametrize("fault", ["refuses connections", "says nothing", "fails", "sends a page"])
async def test_without_any_keys_nobody_is_refused_but_told_to_wait(
    issuer: FakeIssuer, clock: Clock, fault: str
) -> None:
    async with keys_of(issuer, clock, fetch_seconds=0.2) as jwks:
        for name, value in FAULTS[fault].items():
            setattr(issuer, name, value)
        for _ in range(3):
            with pytest.raises(KeysUnavailable):
                await finds(jwks, "first")
        assert len(issuer.asked) <= 1
        issuer.fault, issuer.status, issuer.body, issuer.headers = "", 200, None, {}
        clock.now += REFETCH
        assert await finds(jwks, "first")


async def test_old_keys_do_not_stay_for_ever(issuer: FakeIssuer, jwks: Jwks, clock: Clock) -> None:
    assert await finds(jwks, "first")
    issuer.status = 500
    clock.now += STALE - 1
    assert await finds(jwks, "first")
    clock.now += 1
    with pytest.raises(KeysUnavailable):
        await finds(jwks, "first")


async def test_a_long_outage_holds_nobody_up(issuer: FakeIssuer, jwks: Jwks, clock: Clock) -> None:
    assert await finds(jwks, "first")
    clock.now += 2 * TTL
    issuer.fault = "refuse"
    assert await finds(jwks, "first")
    clock.now += REFETCH
    issuer.fault = ""
    issuer.gate.clear()
    issuer.came.clear()
    async with asyncio.timeout(2):  # less than a fetch may take
        assert await finds(jwks, "first")
        await issuer.came.wait()  # it is asked again, and nobody waits for that
        assert await finds(jwks, "first")


async def test_a_slow_fetch_is_not_overtaken_by_another(issuer: FakeIssuer, jwks: Jwks, clock: Clock) -> None:
    issuer.gate.clear()
    asking = [asyncio.create_task(finds(jwks, "first"))]
    await issuer.came.wait()
    clock.now += 2 * REFETCH
    asking += [asyncio.create_task(finds(jwks, "first")) for _ in range(5)]
    await asyncio.sleep(0)  # they have begun to wait
    issuer.gate.set()
    assert await asyncio.gather(*asking) == [True] * 6
    assert len(issuer.asked) == 1


async def test_who_gives_up_leaves_the_fetch_to_the_others(issuer: FakeIssuer, jwks: Jwks) -> None:
    issuer.gate.clear()
    impatient, patient = (asyncio.create_task(finds(jwks, "first")) for _ in range(2))
    await issuer.came.wait()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    issuer.gate.set()
    assert await patient
    assert len(issuer.asked) == 1


async def test_the_end_does_not_wait_for_the_issuer(issuer: FakeIssuer, jwks: Jwks) -> None:
    issuer.gate.clear()
    asking = asyncio.create_task(finds(jwks, "first"))
    await issuer.came.wait()
    async with asyncio.timeout(1):
        await jwks.aclose()
        with pytest.raises(KeysUnavailable):
            await asking


async def test_the_log_says_whose_keys_are_missing_and_no_more(
    issuer: FakeIssuer, jwks: Jwks, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.body = b"hunter2"
    with caplog.at_level(logging.INFO, "tailrace"), pytest.raises(KeysUnavailable):
        await finds(jwks, "first")
    (record,) = [record for record in caplog.records if record.name == "tailrace.auth"]
    assert record.getMessage() == "the keys for tokens could not be fetched"
    assert "hunter2" not in str(vars(record))
