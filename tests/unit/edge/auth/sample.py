"""Keys and tokens, good and bad."""

import base64
import json
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from shared.edge.auth.tokens import TokenRules, Verifier

NOW = 1_800_000_000.0
SECRET = "a secret of more than thirty-two bytes"
ISSUER, AUDIENCE = "https://issuer.example", "tailrace"

CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1(), "ES256K": ec.SECP256K1()}


@cache
def private_key(name: str) -> Any:
    """A key of this kind: rsa, rsa-1024, an algorithm of CURVES, ed25519, ed448. The same one each time."""
    if name.startswith("rsa"):
        return rsa.generate_private_key(65537, int(name.partition("-")[2] or 2048))
    if name in CURVES:
        return ec.generate_private_key(CURVES[name])
    return ed25519.Ed25519PrivateKey.generate() if name == "ed25519" else ed448.Ed448PrivateKey.generate()


def public_pem(name: str) -> str:
    key = private_key(name).public_key()
    return str(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "ascii")


def private_pem(name: str) -> str:
    return str(private_key(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "ascii")


def jwk(name: str, **more: Any) -> dict[str, Any]:
    """The public key as a member of a JWK set."""
    algorithm = {"rsa": "RS256", "rsa-1024": "RS256", "ed25519": "EdDSA", "ed448": "EdDSA"}.get(name, "ES256")
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(name).public_key(), as_dict=True)
    return {name: value for name, value in {**made, **more}.items() if value is not None}


def claims(**changed: Any) -> dict[str, Any]:
    """Those of a good token; None leaves one out."""
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": NOW + 600,
        "iat": NOW,
        "sub": "ann",
        "tenant": "acme",
        "scope": "runs:read runs:write",
    }
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def token(key: Any = SECRET, algorithm: Any = "HS256", header: Any = None, **changed: Any) -> str:
    """A token signed as it should be."""
    payload = json.dumps(claims(**changed)).encode()
    return jwt.PyJWS().encode(payload, key, algorithm, header)


def assembled(header: Any, payload: Any, signature: bytes = b"signature") -> str:
    """A token of any parts: bytes as they are, all else as JSON."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    return ".".join(encoded(part) for part in (*parts, signature))


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def rules(**changed: Any) -> TokenRules:
    given = {"secret": SECRET} if not {"secret", "public_key", "jwks_url"} & set(changed) else {}
    return TokenRules(**{"issuer": ISSUER, "audience": AUDIENCE, **given, **changed})


def verifier(*, now: float = NOW, **changed: Any) -> Verifier:
    return Verifier(rules(**changed), now=lambda: now)
