"""Keys that tokens are signed with, each with the algorithms that may be used with it.

The key decides, never the token: a token that says HS256 must not have a public key, which everybody may know, taken
for its secret (RFC 8725, sections 2.1 and 3.1). `none` is in no list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

SYMMETRIC = ("HS256",)
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVES: Mapping[str, str] = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
EDWARDS = ("EdDSA",)
ASYMMETRIC = (*RSA, *CURVES.values(), *EDWARDS)

SECRET_BYTES = 32  # at least: as long as what HS256 makes of it (RFC 7518, section 3.2)
RSA_BITS = (2048, 8192)  # shorter ones can be broken; the time a check takes grows with the length


class UnfitKey(Exception):
    """A key cannot be used; the message says what to give, and never the key."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that checks signatures, and the algorithms it may be used with. `kid` is its name among several."""

    material: Any  # of the library: bytes or a public key
    algorithms: frozenset[str]
    kid: str | None = None


class Keys(Protocol):
    """Where the keys are."""

    @property
    def algorithms(self) -> frozenset[str]:
        """All that one of its keys may ever be used with."""
        ...

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key of a token with this header; None: there is none. Raise KeysUnavailable when nobody can say."""
        ...

    def failing(self) -> str:
        """Why `/ready` should complain; empty when all is well."""
        ...

    async def aclose(self) -> None: ...


class KeysUnavailable(Exception):
    """The keys cannot be had now: it is not the bearer's fault. The message says so to whoever asks."""


class OneKey:
    """The only key there is, whatever a token calls it."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self.algorithms = key.algorithms

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        return self._key if algorithm in self._key.algorithms else None

    def failing(self) -> str:
        return ""

    async def aclose(self) -> None:
        return None


def secret_key(secret: str, allowed: Sequence[str] = ()) -> Key:
    """The key of HS256. Raise UnfitKey for one that can be guessed, or that is no secret."""
    if len(secret.encode()) < SECRET_BYTES:
        raise UnfitKey(
            f"the secret is shorter than {SECRET_BYTES} bytes and could be guessed; make one with: openssl rand -hex 32"
        )
    try:
        material = jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise UnfitKey("the secret is a key or a certificate, which others may know; give one of its own") from None
    return Key(material, narrowed(SYMMETRIC, allowed))


def pem_key(pem: str, allowed: Sequence[str] = ()) -> Key:
    """A public key in PEM. Raise UnfitKey for anything else."""
    if "PRIVATE KEY" in pem:
        raise UnfitKey("this is a private key, with which tokens are made; give the public one that belongs to it")
    if "CERTIFICATE" in pem:
        raise UnfitKey("this is a certificate; give the public key in it: openssl x509 -pubkey -noout -in it")
    try:
        # an environment file has one line for it
        material = load_pem_public_key(pem.replace("\\n", "\n").encode())
    except (ValueError, UnsupportedAlgorithm):
        raise UnfitKey("this is no public key in PEM; it begins with -----BEGIN PUBLIC KEY-----") from None
    return Key(material, narrowed(algorithms_of(material), allowed))


def jwk_key(jwk: Mapping[str, Any], allowed: Sequence[str] = ()) -> Key:
    """A public key of a JWK set. Raise UnfitKey for one that is not for signatures, is symmetric, weak or unknown."""
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise UnfitKey("it is not for signatures")
    if jwk.get("kty") not in ("RSA", "EC", "OKP") or "d" in jwk:
        raise UnfitKey("it is not a public key")
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise UnfitKey("its kid is no text")
    try:
        # the type decides what reads it; `alg`, which need not be there, only narrows
        name = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}[jwk["kty"]]
        material = jwt.get_algorithm_by_name(name).from_jwk(dict(jwk))
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        raise UnfitKey("it cannot be read") from None
    algorithms = algorithms_of(material)
    if "alg" in jwk:
        algorithms = tuple(name for name in algorithms if name == jwk["alg"])
    return Key(material, narrowed(algorithms, allowed), kid)


def algorithms_of(material: Any) -> tuple[str, ...]:
    """What a public key may be used with. Raise UnfitKey for a weak one, and for a kind we do not use."""
    if isinstance(material, RSAPublicKey):
        if not RSA_BITS[0] <= material.key_size <= RSA_BITS[1]:
            raise UnfitKey(f"an RSA key has from {RSA_BITS[0]} to {RSA_BITS[1]} bits; this one has {material.key_size}")
        return RSA
    if isinstance(material, EllipticCurvePublicKey) and material.curve.name in CURVES:
        return (CURVES[material.curve.name],)
    if isinstance(material, Ed25519PublicKey | Ed448PublicKey):
        return EDWARDS
    raise UnfitKey("a public key is RSA, EC on P-256, P-384 or P-521, or Ed25519")


def check_algorithms(allowed: Sequence[str]) -> None:
    """Raise UnfitKey for names of no algorithm we take, and for secrets and public keys side by side."""
    strange = [name for name in allowed if name not in (*SYMMETRIC, *ASYMMETRIC)]
    if strange:
        raise UnfitKey(f"{strange[0]!r} is no algorithm taken here; there are {', '.join((*SYMMETRIC, *ASYMMETRIC))}")
    if not set(SYMMETRIC).isdisjoint(allowed) and not set(ASYMMETRIC).isdisjoint(allowed):
        raise UnfitKey("algorithms for a secret and for public keys do not go together; name those of your key alone")


def narrowed(algorithms: Sequence[str], allowed: Sequence[str]) -> frozenset[str]:
    """Those of the key's algorithms that are allowed, all if nothing is said. Raise UnfitKey when none is left."""
    left = frozenset(algorithms).intersection(allowed or algorithms)
    if not left:
        raise UnfitKey(
            f"{', '.join(allowed) or 'what it says'} does not go with this key, which takes {', '.join(algorithms)}"
        )
    return left
