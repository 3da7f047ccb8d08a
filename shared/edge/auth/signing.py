"""Making tokens, for development and for services of one's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shared.edge.auth.keys import UnfitKey, algorithms_of, secret_key


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that makes tokens, with the first of the algorithms it is for."""

    material: Any
    algorithm: str

    def __repr__(self) -> str:
        return f"SigningKey({self.algorithm})"


def signing_secret(secret: str) -> SigningKey:
    """The secret that tokens are checked with, too. Raise UnfitKey."""
    return SigningKey(secret_key(secret).material, "HS256")


def signing_pem(pem: bytes) -> SigningKey:
    """A private key in PEM, without a password. Raise UnfitKey."""
    try:
        material: Any = load_pem_private_key(pem, password=None)
    except TypeError:
        raise UnfitKey("the key has a password: take it off first, openssl pkey -in … -out …") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnfitKey("this is no private key in PEM; it begins with -----BEGIN PRIVATE KEY-----") from None
    return SigningKey(material, algorithms_of(material.public_key())[0])


def sign(claims: Mapping[str, Any], key: SigningKey, kid: str | None = None) -> str:
    """A token. `kid` names the key where it is checked with one of several."""
    header = {} if kid is None else {"kid": kid}
    return jwt.PyJWS().encode(msgspec.json.encode(claims), key.material, key.algorithm, header)
