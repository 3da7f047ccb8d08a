"""Events as lines for people. Pure: what a terminal makes of the styles is its own affair.

Text from programs and models never moves the cursor: of it only what can be seen goes out.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

Style = Literal["plain", "dim", "good", "bad", "warn", "busy"]
Event = Mapping[str, Any]
Part = tuple[Style, str]

STATUS_STYLES: Mapping[str, Style] = {
    **dict.fromkeys(("succeeded", "completed"), "good"),
    **dict.fromkeys(("failed", "timed_out", "lost"), "bad"),
    **dict.fromkeys(("cancelled", "cancelling", "waiting_input", "unhealthy"), "warn"),
    **dict.fromkeys(("running", "starting", "preparing"), "busy"),
}
LEVEL_STYLES: Mapping[str, Style] = {"ERROR": "bad", "WARN": "warn", "DEBUG": "dim"}
BAR_CELLS = 20
DETAIL_CHARACTERS = 200  # of the fields of an event that has no words of its own here


class Line(Struct, frozen=True):
    """Parts with their styles, printed one after the other with a space between."""

    time: str
    parts: tuple[Part, ...]


def line_of(event: Event, *, named: bool = False) -> Line:
    """One event. `named`: with its subject, where several are watched."""
    try:
        parts = _PARTS.get(str(event.get("type")), _other)(event)
    except (AttributeError, TypeError, ValueError, ArithmeticError):  # a newer server's, of another shape than ours
        parts = _other(event)
    if named:
        parts = [("dim", _short(str(event.get("run_id") or event.get("task_id") or ""))), *parts]
    return Line(_time(event.get("timestamp") or event.get("ts")), tuple((style, seen(text)) for style, text in parts))


def seen(text: str) -> str:
    """What of a text can be seen; a line's end becomes a space."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text)


def _status(event: Event) -> list[Part]:
    status = str(event.get("status"))
    parts: list[Part] = [(STATUS_STYLES.get(status, "plain"), status)]
    if event.get("attempt", 1) > 1:
        parts.append(("dim", f"attempt {event['attempt']}"))
    if status in ("completed", "failed", "cancelled", "timed_out") and event.get("tokens_out"):
        parts.append(("dim", f"{event['tokens_out']} tokens"))
    parts += [("plain", str(event[name])) for name in ("message", "error", "output") if event.get(name)]
    return parts


def _node(event: Event) -> list[Part]:
    parts: list[Part] = [("busy", str(event.get("worker_id") or event.get("agent") or event.get("node")))]
    told = [str(event[name]) for name in ("node", "phase") if event.get(name)]
    if event.get("iteration") is not None:
        told.append(f"#{event['iteration']}")
    if event.get("tokens_out") is not None:
        told.append(f"{event['tokens_out']} tokens")
    parts.append(("dim", " ".join(told)))
    if event.get("snippet"):
        parts.append(("plain", str(event["snippet"])))
    return parts


def _error(event: Event) -> list[Part]:
    return [("bad" if event.get("fatal") else "warn", f"{event.get('code')}:"), ("plain", str(event.get("message")))]


def _snapshot(event: Event) -> list[Part]:
    status = str(event.get("status"))
    parts: list[Part] = [(STATUS_STYLES.get(status, "plain"), f"{status:<13}")]
    progress = event.get("progress") or {}
    done, total, unit = progress.get("done") or 0, progress.get("total"), progress.get("unit") or ""
    if total:
        full = int(BAR_CELLS * min(1.0, max(0.0, done / total)))
        parts.append(("busy", "█" * full + "░" * (BAR_CELLS - full)))
        parts.append(("plain", f"{_amount(done)}/{_amount(total)} {unit}".strip()))
    elif done:
        parts.append(("plain", f"{_amount(done)} {unit}".strip()))
    parts += [("plain", str(text)) for text in (progress.get("message"), event.get("error")) if text]
    return parts


def _amount(number: float) -> str:
    """Whole numbers as they are: people count in them."""
    return str(number) if isinstance(number, int) else f"{number:.10g}"


def _log(event: Event) -> list[Part]:
    style: Style = "dim" if event.get("source") == "system" else LEVEL_STYLES.get(str(event.get("level")), "plain")
    return [(style, str(event.get("message", "")))]


def _preview(event: Event) -> list[Part]:
    parts = _status(event)
    ended = event.get("exit") or {}
    told = [f"{name} {ended[name]}" for name in ("code", "signal") if ended.get(name) is not None]
    return parts if not told else [*parts, ("dim", f"({', '.join(told)})")]


def _ready(event: Event) -> list[Part]:
    return [("good", "ready"), ("plain", str(event.get("url") or ""))]


def _gap(event: Event) -> list[Part]:
    return [("warn", f"… {event.get('dropped')} events skipped: this reader fell behind")]


def _reset(event: Event) -> list[Part]:
    return [("warn", f"… starting over: {event.get('reason')}")]


def _other(event: Event) -> list[Part]:
    hidden = ("type", "tenant", "ts", "run_id", "session_id", "task_id")
    rest = {name: value for name, value in event.items() if name not in hidden}
    text = _value(rest.pop("text", ""))
    told = ", ".join(f"{name}={_value(value)}" for name, value in rest.items() if value is not None)
    cut = told if len(told) <= DETAIL_CHARACTERS else f"{told[:DETAIL_CHARACTERS]}…"
    return [("dim", str(event.get("type"))), ("plain", text), ("dim", cut)]


def _value(value: object) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else str(msgspec.json.encode(value), "utf-8")


_PARTS: Mapping[str, Callable[[Event], list[Part]]] = {
    "status": _status,
    "node_update": _node,
    "error": _error,
    "snapshot": _snapshot,
    "log": _log,
    "preview_status": _preview,
    "ready": _ready,
    "gap": _gap,
    "reset": _reset,
}


def _time(text: object) -> str:
    """Hours, minutes and seconds of this machine's zone."""
    try:
        moment = datetime.fromisoformat(str(text))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone().strftime("%H:%M:%S")
    except (ValueError, OverflowError):  # no time, or one that no calendar here has
        return " " * len("00:00:00")


def _short(subject_id: str) -> str:
    """The end of an id, in which ids made together differ."""
    return subject_id[-6:]
