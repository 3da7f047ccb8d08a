"""Ids: a prefix and a ULID in lower case, `run_01j…`; newer ids sort after older ones."""

import re
import secrets
import time

MAX_NAME = 200
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
ULID = r"[0-7][0-9a-hjkmnp-tv-z]{25}"
_ULID = re.compile(ULID, re.ASCII)


def new_id(prefix: str) -> str:
    """A new id: 48 bits of milliseconds, 80 of chance."""
    value = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return prefix + "_" + "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))


def is_name(text: str) -> bool:
    """Whether something that callers name themselves can have this id: it must stand in a path."""
    return 1 <= len(text) <= MAX_NAME and text.isprintable() and "/" not in text


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` can be such an id at all."""
    return text.startswith(prefix + "_") and _ULID.fullmatch(text[len(prefix) + 1 :]) is not None
