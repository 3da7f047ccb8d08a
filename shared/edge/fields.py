"""Fields that bodies of several services have."""

from typing import Annotated, Any

from msgspec import Meta

# Python's $ also matches before a newline at the end, which (?!\n) rules out
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._:/@-]+(?!\n)$")]
Reference = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+(?!\n)$")]
Text = Annotated[str, Meta(max_length=100_000, pattern=r"^[^\x00]*$")]

MAX_DEPTH = 100


def check_depth(name: str, value: Any) -> None:
    """Raise ValueError, which msgspec turns into a fault of the body, for JSON that is nested too deeply: what is
    stored must be readable wherever it is nested.
    """
    if _is_deeper(value, MAX_DEPTH):
        raise ValueError(f"{name} is nested too deeply: at most {MAX_DEPTH} levels are taken")


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_is_deeper(item, levels - 1) for item in value))
