"""What a server's answers are read as."""

from typing import Any, TypeVar

import msgspec

from shared.client import Unreadable

T = TypeVar("T")


def read(answer: Any, kind: type[T]) -> T:
    """The answer as a `kind`. Raise Unreadable when it is something else."""
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise Unreadable(f"what answers is no Tailrace, or one of another version: {error}") from None
