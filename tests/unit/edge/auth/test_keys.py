"""Keys: what each may be used with, and which are refused."""

from typing import Any

import jwt
import pytest

from shared.edge.auth.keys import (
    ASYMMETRIC,
    RSA,
    SYMMETRIC,
    OneKey,
    UnfitKey,
    check_algorithms,
    jwk_key,
    pem_key,
    secret_key,
)
from tests.unit.edge.auth.sample import SECRET, jwk, private_key, private_pem, public_pem

KINDS = {
    "rsa": set(RSA),
    "ES256": {"ES256"},
    "ES384": {"ES384"},
    "ES512": {"ES512"},
    "ed25519": {"EdDSA"},
    "ed448": {"EdDSA"},
}


def test_no_list_holds_none_nor_both_kinds() -> None:
    assert not {name.lower() for name in (*SYMMETRIC, *ASYMMETRIC)} & {"none", ""}
    assert not set(SYMMETRIC) & set(ASYMMETRIC)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_key_decides_the_algorithms(kind: str) -> None:
    assert pem_key(public_pem(kind)).algorithms == KINDS[kind]
    assert jwk_key(jwk(kind)).algorithms == KINDS[kind]


def test_a_secret_is_for_one_algorithm() -> None:
    assert secret_key(SECRET).algorithms == {"HS256"}


def test_a_key_in_one_line_is_read() -> None:
    assert pem_key(public_pem("ES256").replace("\n", "\\n")).algorithms == {"ES256"}


def test_settings_narrow_the_algorithms() -> None:
    assert pem_key(public_pem("rsa"), ("PS256", "RS256")).algorithms == {"PS256", "RS256"}
    assert jwk_key(jwk("rsa", alg="RS256")).algorithms == {"RS256"}
    assert jwk_key(jwk("rsa", alg="RS256"), ("RS256", "RS384")).algorithms == {"RS256"}


@pytest.mark.parametrize("allowed", [("HS256",), ("ES256",), ("none",)])
def test_settings_cannot_add_an_algorithm(allowed: tuple[str, ...]) -> None:
    with pytest.raises(UnfitKey, match="does not go with this key"):
        pem_key(public_pem("rsa"), allowed)
    with pytest.raises(UnfitKey):
        jwk_key(jwk("rsa"), allowed)


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        (("none",), "'none' is no algorithm"),
        (("HS384",), "'HS384' is no algorithm"),
        (("RS256", "ES256K"), "'ES256K' is no algorithm"),
        (("rs256",), "'rs256' is no algorithm"),
        (("HS256", "RS256"), "do not go together"),
    ],
)
def test_algorithms_that_cannot_be_are_refused(allowed: tuple[str, ...], said: str) -> None:
    with pytest.raises(UnfitKey, match=said):
        check_algorithms(allowed)


@pytest.mark.parametrize("allowed", [(), ("HS256",), ("RS256", "ES256"), ASYMMETRIC])
def test_algorithms_of_one_kind_are_taken(allowed: tuple[str, ...]) -> None:
    check_algorithms(allowed)


@pytest.mark.parametrize("secret", ["", "hunter2", "x" * 31, "é" * 15])
def test_a_short_secret_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(UnfitKey) as refused:
        secret_key(secret)
    assert not secret or secret not in str(refused.value)


def test_a_secret_of_32_bytes_is_taken() -> None:
    assert secret_key("é" * 16).material == ("é" * 16).encode()


@pytest.mark.parametrize("kind", ["rsa", "ES256", "ed25519"])
def test_a_public_key_is_no_secret(kind: str) -> None:
    with pytest.raises(UnfitKey, match="others may know"):
        secret_key(public_pem(kind))


@pytest.mark.parametrize(
    ("pem", "said"),
    [
        (private_pem("rsa"), "private key"),
        (private_pem("ES256"), "private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "certificate"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "no public key"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "no public key"),
        ("", "no public key"),
        (public_pem("rsa-1024"), "2048"),
        (public_pem("ES256K"), "P-256"),
    ],
)
def test_a_pem_that_is_no_good_public_key_is_refused(pem: str, said: str) -> None:
    with pytest.raises(UnfitKey, match=said) as refused:
        pem_key(pem)
    assert not pem or pem not in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"use": "enc"},
        {"use": None, "key_ops": ["encrypt"]},
        {"key_ops": []},
        {"key_ops": "verify"},
        {"key_ops": 5},
        {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"},
        {"kty": "XYZ"},
        {"kty": None},
        {"kty": ["RSA"]},
        {"kty": "EC"},
        {"kid": 7},
        {"n": None},
        {"n": "AQAB"},
        {"n": 5},
        {"e": "AA"},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": "RSA-OAEP"},
        {"alg": 5},
        {"d": "AQAB"},
    ],
)
def test_a_jwk_that_is_no_good_public_key_for_signatures_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(UnfitKey):
        jwk_key(jwk("rsa", **changed))


def test_weak_and_strange_jwks_are_refused() -> None:
    for kind in ("rsa-1024", "ES256K"):
        with pytest.raises(UnfitKey):
            jwk_key(jwk(kind))
    with pytest.raises(UnfitKey):
        jwk_key({**jwk("ES256"), "x": jwk("ES256")["y"]})


@pytest.mark.parametrize(("kind", "algorithm"), [("rsa", "RS256"), ("ES256", "ES256"), ("ed25519", "EdDSA")])
def test_a_private_key_in_a_set_is_refused(kind: str, algorithm: str) -> None:
    """Whoever fetched it could make tokens."""
    private: Any = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(kind), as_dict=True)
    private.pop("key_ops", None)
    assert "d" in private
    with pytest.raises(UnfitKey, match="not a public key"):
        jwk_key(private)


async def test_one_key_goes_by_any_name_but_only_with_its_algorithms() -> None:
    key = pem_key(public_pem("ES256"))
    keys = OneKey(key)
    assert await keys.find(None, "ES256") is key
    assert await keys.find("whatever", "ES256") is key
    assert await keys.find(None, "HS256") is None
    assert await keys.find(None, "none") is None
