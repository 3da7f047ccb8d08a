"""The event schema: msgspec Structs, the delivery class of each type, and reading what is newer than we are."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from shared.protocol.errors import InvalidEvent, UnknownTypes
from shared.protocol.filter import type_pattern
from shared.protocol.record import Record

LatestKey = Literal["subject", "worker"]


class Delivery(Enum):
    """What a reader that lags may miss of a type."""

    CRITICAL = "critical"  # never skipped
    SHEDDABLE = "sheddable"  # may be skipped; a gap counts it
    LATEST = "latest"  # only the newest per key matters; older ones are conflated silently


class Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    """The root of all events: an immutable fact. `ts` is when it was published, in UTC.

    A subclass names its type with `tag=`, sets `delivery`, and for LATEST the record field that is its key.
    """

    delivery: ClassVar[Delivery] = Delivery.CRITICAL
    latest_key: ClassVar[LatestKey] = "subject"

    tenant: str
    ts: datetime


class UnknownEvent(Struct, frozen=True):
    """An event of a type that this program does not know: kept as it came, never raised about."""

    type: str
    fields: dict[str, Any]


MAX_PATTERNS, MAX_PATTERN, MAX_STARS = 64, 100, 3  # a regular expression of many stars takes for ever to fail
_RESERVED = frozenset({"type", "tenant", "ts"})
_GLOB = re.compile(r"[a-z0-9_.*]+", re.ASCII)


class Schema:
    """The event types that one service's log holds."""

    def __init__(self, types: Iterable[type[Event]]) -> None:
        self._types: dict[str, type[Event]] = {_tag(event): event for event in types}
        self._decoder = msgspec.json.Decoder(reduce(or_, self._types.values()))
        self._encoder = msgspec.json.Encoder()

    @property
    def names(self) -> tuple[str, ...]:
        """The type names, sorted."""
        return tuple(sorted(self._types))

    @property
    def types(self) -> Mapping[str, type[Event]]:
        """The Struct of each type, by name."""
        return self._types

    def encode(self, event: Event) -> bytes:
        """The event's JSON: `type` first, then its fields."""
        return self._encoder.encode(event)

    def decode(self, data: bytes) -> Event | UnknownEvent:
        """Read an event; one of a type or shape we do not know becomes an UnknownEvent. Never raises for an object."""
        try:
            event: Event = self._decoder.decode(data)
        except msgspec.DecodeError:
            fields = _read(data)
            return UnknownEvent(type=str(fields.get("type", "")), fields=fields)
        return event

    def delivery(self, name: str) -> Delivery:
        """The delivery class of a type; CRITICAL for one we do not know, so that nothing unknown is ever skipped."""
        event = self._types.get(name)
        return Delivery.CRITICAL if event is None else event.delivery

    def latest_key(self, record: Record) -> tuple[str, str, str]:
        """Two LATEST records with the same key: the newer one replaces the older."""
        field = self._types[record.type].latest_key
        key = f"{record.subject}\0{record.worker}" if field == "worker" else record.subject
        return record.type, record.tenant, key

    def select(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """Check `types` patterns; return them sorted. Raise UnknownTypes naming those that match no type."""
        chosen = sorted(set(patterns))
        if len(chosen) > MAX_PATTERNS or any(len(p) > MAX_PATTERN or p.count("*") > MAX_STARS for p in chosen):
            raise UnknownTypes(
                f"types takes up to {MAX_PATTERNS} patterns, each up to {MAX_PATTERN} characters and {MAX_STARS} stars"
            )
        wrong = [pattern for pattern in chosen if not self._names_something(pattern)]
        if wrong:
            raise UnknownTypes(
                f"no event type here matches {', '.join(map(repr, wrong))}; valid: {', '.join(self.names)}"
            )
        return tuple(chosen)

    def _names_something(self, pattern: str) -> bool:
        if not _GLOB.fullmatch(pattern):
            return False
        return any(type_pattern((pattern,)).fullmatch(name) for name in self._types)

    def build(self, fields: Mapping[str, Any], given: Mapping[str, Any], allowed: Iterable[str]) -> Event:
        """An event from what a publisher sent (`fields`) and what the service knows (`given`).

        Raise InvalidEvent when the type is not in `allowed`, a field is unknown, reserved, missing or of a wrong type.
        """
        name = fields.get("type")
        names = sorted(set(allowed) & set(self._types))
        if name not in names:
            raise InvalidEvent(f"type must be one of {', '.join(names)}; got {name!r}")
        event = self._types[str(name)]
        own = set(event.__struct_fields__) - _RESERVED - set(given)
        strange = sorted(set(fields) - own - {"type"})
        if strange:
            raise InvalidEvent(
                f"{name} has no field {', '.join(map(repr, strange))} to set; allowed: {', '.join(sorted(own))}"
            )
        try:
            return msgspec.convert({**fields, **given}, event)
        except msgspec.ValidationError as error:
            raise InvalidEvent(f"{name}: {error}") from None

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of all the types, under `$defs`."""
        _, components = msgspec.json.schema_components(self._types.values(), ref_template="#/$defs/{name}")
        return {
            "$defs": components,
            "oneOf": [{"$ref": f"#/$defs/{event.__name__}"} for event in self._types.values()],
        }


def _read(data: bytes) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = msgspec.json.decode(data)
    except msgspec.DecodeError:  # a number beyond any that msgspec takes
        fields = json.loads(data)
    return fields


def _tag(event: type[Event]) -> str:
    tag = event.__struct_config__.tag
    if not isinstance(tag, str) or tag == event.__name__:  # msgspec's default
        raise TypeError(f"{event.__name__} names no type: declare it with tag='…'")
    return tag
