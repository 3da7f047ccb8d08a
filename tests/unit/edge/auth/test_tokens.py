"""Tokens: which become a principal, and what is said of those that do not."""

import json
import math
import string
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.edge.auth.keys import Key, KeysUnavailable, UnfitKey
from shared.edge.auth.tokens import LEEWAY_SECONDS, MAX_TOKEN_BYTES, TokenRefused, Verifier, token_id, unverified
from shared.edge.principal import Principal
from tests.unit.edge.auth.sample import (
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    assembled,
    claims,
    decoded,
    encoded,
    private_key,
    public_pem,
    rules,
    token,
    verifier,
)

# a key, and an algorithm that goes with it
PAIRS = [
    ("rsa", "RS256"),
    ("rsa", "RS384"),
    ("rsa", "RS512"),
    ("rsa", "PS256"),
    ("rsa", "PS384"),
    ("rsa", "PS512"),
    ("ES256", "ES256"),
    ("ES384", "ES384"),
    ("ES512", "ES512"),
    ("ed25519", "EdDSA"),
    ("ed448", "EdDSA"),
]


async def refusal(token: str, by: Verifier | None = None) -> str:
    """Why it is refused; what is said holds no piece of the token."""
    with pytest.raises(TokenRefused) as refused:
        await (by or verifier()).verify(token)
    said = refused.value.reason
    assert str(refused.value) == said
    assert said.endswith((".", "?"))
    assert not any(part in said for part in token.split(".") if len(part) > 3)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    return said


# ── good ones ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_becomes_its_principal() -> None:
    made = token(jti="t-1", scope="runs:read feed:reads openid runs:work")
    assert await verifier().verify(made) == Principal(
        tenant="acme",
        owner="ann",
        scopes=frozenset({"runs:read", "runs:work"}),
        token_id="jti:t-1",
        expires_at=NOW + 600,
        is_service=False,
    )


async def test_who_may_consume_the_feeds_is_a_service() -> None:
    assert (await verifier().verify(token(scope="feed:consume"))).is_service
    assert not (await verifier().verify(token(scope="feed:consumes previews:admin"))).is_service


@pytest.mark.parametrize(
    ("scope", "found"),
    [
        ("", set()),
        ("runs:read", {"runs:read"}),
        ("  runs:read\ttasks:read ", {"runs:read", "tasks:read"}),
        ("runs:read,tasks:read", set()),
        (["runs:read", "tasks:read"], {"runs:read", "tasks:read"}),
        (["runs:read tasks:read"], set()),
        ([], set()),
        (None, set()),
    ],
)
async def test_scopes_come_as_words_or_as_a_list(scope: Any, found: set[str]) -> None:
    assert (await verifier().verify(token(scope=scope))).scopes == found


@pytest.mark.parametrize(("kind", "algorithm"), PAIRS)
async def test_each_kind_of_key_checks_its_signatures(kind: str, algorithm: str) -> None:
    made = token(private_key(kind), algorithm)
    assert (await verifier(public_key=public_pem(kind)).verify(made)).owner == "ann"


async def test_the_tenant_is_in_the_claim_that_was_named() -> None:
    by = verifier(tenant_claim="https://acme.example/tenant")
    assert (await by.verify(token(**{"https://acme.example/tenant": "west", "tenant": "east"}))).tenant == "west"
    assert (await verifier(tenant_claim="sub").verify(token(tenant=None))).tenant == "ann"


@pytest.mark.parametrize("aud", [AUDIENCE, [AUDIENCE], ["another", AUDIENCE]])
async def test_the_audience_may_be_one_of_several(aud: Any) -> None:
    assert (await verifier().verify(token(aud=aud))).owner == "ann"


async def test_one_key_is_used_whatever_the_token_calls_it() -> None:
    assert (await verifier().verify(token(header={"kid": "2024-07"}))).owner == "ann"
    assert (await verifier().verify(token(header={"typ": "at+jwt"}))).owner == "ann"


# ── claims ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["iss", "aud", "exp", "sub", "tenant"])
async def test_a_token_without_a_claim_that_all_must_have_is_refused(name: str) -> None:
    assert await refusal(token(**{name: None})) == (
        f"The token lacks the claim '{name}'" + (", which names its tenant." if name == "tenant" else ".")
    )


@pytest.mark.parametrize("name", ["iat", "nbf", "jti", "scope"])
async def test_a_token_may_lack_the_others(name: str) -> None:
    assert (await verifier().verify(token(**{name: None}))).owner == "ann"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iss", 5),
        ("iss", [ISSUER]),
        ("aud", {"a": AUDIENCE}),
        ("aud", [AUDIENCE, 5]),
        ("exp", str(NOW + 600)),
        ("exp", True),
        ("exp", -1),
        ("exp", 1e15),
        ("exp", [NOW]),
        ("exp", math.inf),
        ("exp", math.nan),
        ("nbf", "0"),
        ("iat", "0"),
        ("iat", {}),
        ("sub", ""),
        ("sub", 5),
        ("sub", "a\0b"),
        ("sub", "a\n"),
        ("sub", "x" * 201),
        ("sub", ["ann"]),
        ("tenant", ""),
        ("tenant", 5),
        ("tenant", "a\0b"),
        ("tenant", "x" * 201),
        ("tenant", ["acme"]),
        ("tenant", {}),
        ("jti", 5),
        ("jti", ""),
        ("jti", "a\0"),
        ("jti", "x" * 201),
        ("scope", 5),
        ("scope", ["runs:read", 5]),
        ("scope", {"runs:read": True}),
    ],
)
async def test_a_claim_of_another_kind_is_refused(name: str, value: Any) -> None:
    said = await refusal(token(**{name: value}))
    assert said in (f"The token's claim '{name}' is not of the kind it should be.", "The token holds no claims.")


@pytest.mark.parametrize("payload", [b"", b"[]", b"5", b"null", b'"text"', b"{", b"\xff\xfe", b"[" * 5_000])
async def test_a_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    made = jwt.PyJWS().encode(payload, SECRET, "HS256")
    said = await refusal(made)
    assert "holds no claims" in said or "This is no token" in said


async def test_a_claim_that_is_nested_deeply_is_refused_not_raised() -> None:
    payload = json.dumps(claims()).encode()[:-1] + b',"x":' + b"[" * 2_500 + b"]" * 2_500 + b"}"
    await refusal(jwt.PyJWS().encode(payload, SECRET, "HS256"))


@pytest.mark.parametrize("iss", ["https://issuer.example/", "https://issuer.exampl", "HTTPS://issuer.example", ""])
async def test_another_issuer_is_refused(iss: str) -> None:
    assert await refusal(token(iss=iss)) == "The token is from another issuer."


@pytest.mark.parametrize("aud", ["another", [], ["another"], "tailrace2", "tail", ""])
async def test_another_audience_is_refused(aud: Any) -> None:
    assert await refusal(token(aud=aud)) == "The token is for another audience."


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"exp": NOW + 0.5}, ""),
        ({"exp": NOW}, "The token has expired."),
        ({"exp": 0}, "The token has expired."),
        ({"nbf": NOW + LEEWAY_SECONDS}, ""),
        ({"nbf": NOW + LEEWAY_SECONDS + 0.5}, "The token is not valid yet."),
        ({"iat": NOW + LEEWAY_SECONDS}, ""),
        ({"iat": NOW + LEEWAY_SECONDS + 0.5}, "The token was issued in the future: is a clock wrong?"),
    ],
)
async def test_time_is_taken_with_a_little_leeway(changed: dict[str, Any], said: str) -> None:
    if said:
        assert await refusal(token(**changed)) == said
    else:
        assert (await verifier().verify(token(**changed))).owner == "ann"


# ── signatures ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_of_another_secret_is_refused() -> None:
    assert await refusal(token("another secret of more than thirty-two bytes")) == "The token's signature is wrong."


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS384", "HS512", "hs256", "ES256", "XX"])
@pytest.mark.parametrize("key", ["secret", "rsa"])
async def test_an_algorithm_that_the_key_is_not_for_is_refused(name: str, key: str) -> None:
    by = verifier() if key == "secret" else verifier(public_key=public_pem(key))
    for signature in (b"", b"signature"):
        await refusal(assembled({"alg": name, "typ": "JWT"}, claims(), signature), by)
    # as the libraries of old took it: two parts and a dot
    await refusal(assembled({"alg": name}, claims(), b""), by)


@pytest.mark.parametrize("kind", ["rsa", "ES256", "ed25519"])
async def test_a_public_key_is_not_taken_for_a_secret(kind: str) -> None:
    """The attack: sign with HS256 and the public key, which everybody may know, as the secret."""
    by = verifier(public_key=public_pem(kind))
    for secret in (public_pem(kind), public_pem(kind).strip(), public_pem(kind).replace("\n", "\\n")):
        head = encoded(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        signed = f"{head}.{encoded(json.dumps(claims()).encode())}"
        made = f"{signed}.{encoded(hmac_sha256(secret, signed))}"
        assert await refusal(made, by) == "The token is signed with a key that is not known here."


def hmac_sha256(secret: str, text: str) -> bytes:
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return algorithm.sign(text.encode(), secret.encode())


async def test_the_same_attack_fails_should_the_keys_be_careless() -> None:
    """Even where a key is found for HS256 that is for something else, the library is told what it is for."""

    class Careless:
        algorithms = frozenset({"HS256", "RS256"})

        async def find(self, kid: str | None, algorithm: str) -> Key | None:
            return Key(SECRET.encode(), frozenset({"RS256"}))

        def failing(self) -> str:
            return ""

        async def aclose(self) -> None: ...

    by = Verifier(rules(), keys=Careless(), now=lambda: NOW)
    assert await refusal(token(), by) == "The token's signature is wrong."


async def test_a_key_in_the_tokens_own_header_is_not_used() -> None:
    for header in ({"jwk": {"kty": "oct", "k": encoded(b"x" * 32)}}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "x"}):
        await refusal(token("x" * 32, header=header))


async def test_settings_narrow_what_is_taken() -> None:
    by = verifier(public_key=public_pem("rsa"), algorithms=("PS256",))
    assert (await by.verify(token(private_key("rsa"), "PS256"))).owner == "ann"
    await refusal(token(private_key("rsa"), "RS256"), by)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_character_anywhere_is_refused(data: st.DataObject) -> None:
    good = token()
    place = data.draw(st.integers(0, len(good) - 1))
    character = data.draw(st.sampled_from(string.ascii_letters + string.digits + "-_.=+/ ~\n\0é"))
    changed = good[:place] + character + good[place + 1 :]
    if changed != good:
        with pytest.raises(TokenRefused):
            drive(verifier().verify(changed))


@given(
    st.one_of(st.text(max_size=200), st.from_regex(r"[A-Za-z0-9_-]{0,30}(\.[A-Za-z0-9_-]{0,30}){0,4}", fullmatch=True))
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenRefused):
        drive(verifier().verify(text))


def drive(work: Any) -> Any:
    """The outcome of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c.d.e",
        " " + token(),
        token() + "\n",
        token() + "=",
        token() + "==",
        "Bearer " + token(),
        token().replace(".", "..", 1),
        assembled([], claims()),
        assembled(b"{", claims()),
        assembled(b"\xff", claims()),
        assembled(b"[" * 3_000, claims()),
        assembled({"alg": ["HS256"]}, claims()),
        assembled({"alg": None}, claims()),
        assembled({}, claims()),
        assembled(b'{"alg":"HS256","x":' + b"1" * 5_000 + b"}", claims()),
    ],
)
async def test_what_is_no_token_is_refused(text: str) -> None:
    await refusal(text)


async def test_a_token_that_is_too_long_is_refused_before_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    room = MAX_TOKEN_BYTES - len(token(padding=""))
    longest = token(padding="x" * (room * 3 // 4 - 4))
    assert MAX_TOKEN_BYTES - 8 <= len(longest) <= MAX_TOKEN_BYTES
    assert (await verifier().verify(longest)).owner == "ann"
    monkeypatch.setattr(jwt.PyJWS, "_load", None)
    for text in (token(padding="x" * room), "x" * (MAX_TOKEN_BYTES + 1), "." * 10_000_000):
        assert await refusal(text) == "The token is longer than 8192 bytes."


@pytest.mark.parametrize(
    "header",
    [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": True}, {"crit": None}, {"crit": "x"}, {"b64": True}],
)
async def test_extensions_are_refused(header: dict[str, Any]) -> None:
    full = {"alg": "HS256", "typ": "JWT", **header}
    signed = f"{encoded(json.dumps(full).encode())}.{encoded(json.dumps(claims()).encode())}"
    said = await refusal(f"{signed}.{encoded(hmac_sha256(SECRET, signed))}")
    assert said in ("The token asks for extensions that are not known here.", "This is no token: it cannot be decoded.")


@pytest.mark.parametrize("kid", [5, ["a"], {"a": 1}, "x" * 201])
async def test_a_strange_name_of_a_key_is_refused(kid: Any) -> None:
    await refusal(assembled({"alg": "HS256", "kid": kid}, claims()))


async def test_when_the_keys_cannot_be_had_nobody_is_refused_for_it() -> None:
    class Away:
        algorithms = frozenset({"RS256"})

        async def find(self, kid: str | None, algorithm: str) -> Key | None:
            raise KeysUnavailable("later")

        def failing(self) -> str:
            return ""

        async def aclose(self) -> None: ...

    with pytest.raises(KeysUnavailable):
        await Verifier(rules(), keys=Away()).verify(token())


# ── ids ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_without_jti_is_named_by_a_hash() -> None:
    first, second = token(), token(sub="bob")
    ids = [(await verifier().verify(made)).token_id for made in (first, second, first)]
    assert ids[0] == ids[2] != ids[1]
    assert not any(part in ids[0] for part in first.split("."))


async def test_a_jti_cannot_name_another_token() -> None:
    hashed = (await verifier().verify(token())).token_id
    assert (await verifier().verify(token(jti=hashed))).token_id != hashed


async def test_another_writing_of_the_signature_is_the_same_token() -> None:
    """Of ECDSA's (r, s), (r, n - s) is a signature too, which anybody can work out: revoking one must end both."""
    by = verifier(public_key=public_pem("ES256"))
    made = token(private_key("ES256"), "ES256")
    signed, _, signature = made.rpartition(".")
    raw = decoded(signature)
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    assert decode_dss_signature(encode_dss_signature(r, s)) == (r, s)
    twin = f"{signed}.{encoded(r.to_bytes(32, 'big') + (order - s).to_bytes(32, 'big'))}"
    assert twin != made
    assert (await by.verify(twin)).token_id == (await by.verify(made)).token_id


async def test_who_revokes_a_token_finds_the_same_id() -> None:
    for made in (token(), token(jti="t-1"), token(private_key("ES256"), "ES256")):
        by = verifier(public_key=public_pem("ES256")) if "ES256" in str(jwt.get_unverified_header(made)) else verifier()
        known = await by.verify(made)
        assert unverified(made) == (known.token_id, known.expires_at)


@pytest.mark.parametrize(
    "text", ["", "a.b.c", "x" * 9_000, token(exp=None), token(sub=5), assembled({"alg": "x"}, b"")]
)
def test_what_can_be_no_token_has_no_id(text: str) -> None:
    with pytest.raises(TokenRefused):
        unverified(text)


def test_ids_say_which_kind_they_are() -> None:
    assert token_id("a.b.c", "t") == "jti:t"
    assert token_id("a.b.c", None) == token_id("a.b.other", None)
    assert token_id("a.b.c", None).startswith("sha256:")


# ── rules ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": ""},
        {"audience": ""},
        {"tenant_claim": ""},
        {"secret": ""},
        {"secret": "short"},
        {"secret": SECRET, "public_key": public_pem("rsa")},
        {"secret": SECRET, "jwks_url": "https://issuer.example/keys"},
        {"public_key": public_pem("rsa"), "jwks_url": "https://issuer.example/keys"},
        {"secret": SECRET, "algorithms": ("RS256",)},
        {"secret": SECRET, "algorithms": ("HS256", "RS256")},
        {"secret": SECRET, "algorithms": ("none",)},
        {"public_key": public_pem("rsa"), "algorithms": ("HS256",)},
        {"public_key": "nonsense"},
        {"jwks_url": "nonsense"},
        {"jwks_url": "ftp://issuer.example/keys"},
        {"jwks_url": "https://"},
        {"jwks_url": "https://ann:hunter2@issuer.example/keys"},
        {"jwks_url": "https://issuer.example/keys", "algorithms": ("HS256",)},
    ],
)
def test_rules_that_cannot_be_followed_are_refused_at_the_start(changed: dict[str, Any]) -> None:
    with pytest.raises(UnfitKey) as refused:
        verifier(**changed)
    assert "hunter2" not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_rules_do_not_show_their_secret() -> None:
    shown = repr(rules()) + str(rules())
    assert SECRET not in shown
    assert AUDIENCE in shown
