"""The event schema: msgspec Structs, the delivery class of each type, and reading what is newer than we are."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
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
    open_fields: ClassVar[bool] = False  # whether a publisher may add fields that the Struct does not name

    tenant: str
    ts: datetime


class UnknownEvent(Struct, frozen=True):
    """An event of a type that this program does not know: kept as it came, never raised about."""

    type: str
    fields: dict[str, Any]


class Built(Struct, frozen=True):
    """An event ready to be stored, with its JSON, which may hold more than the Struct names."""

    type: str
    event: Event
    data: bytes


MAX_PATTERNS, MAX_PATTERN, MAX_STARS = 64, 100, 3  # a regular expression of many stars takes for ever to fail
_RESERVED = frozenset({"type", "tenant", "ts"})
_GLOB = re.compile(r"[a-z0-9_.*]+", re.ASCII)
_FAMILY_MEMBER = re.compile(r"[a-z0-9_.]{1,100}", re.ASCII)


class Schema:
    """The event types that one service's log holds.

    A tag that ends in `*`, such as `custom.*`, stands for a family: every type that begins with what is before it.
    """

    def __init__(self, types: Iterable[type[Event]]) -> None:
        self._types: dict[str, type[Event]] = {_tag(event): event for event in types}
        self._families = {name.removesuffix("*"): event for name, event in self._types.items() if name.endswith("*")}
        self._settable = {event: frozenset(event.__struct_fields__) - _RESERVED for event in self._types.values()}
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
        event = self._lookup(name)
        return Delivery.CRITICAL if event is None else event.delivery

    def _lookup(self, name: str) -> type[Event] | None:
        found = self._types.get(name)
        if found is None:
            found = next((event for prefix, event in self._families.items() if name.startswith(prefix)), None)
        return found

    def latest_key(self, record: Record) -> tuple[str, str, str]:
        """Two LATEST records with the same key: the newer one replaces the older."""
        event = self._lookup(record.type)
        by_worker = event is not None and event.latest_key == "worker"
        key = f"{record.subject}\0{record.worker}" if by_worker else record.subject
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
        matches = type_pattern((pattern,)).fullmatch
        return any(matches(name) for name in self._types) or any(
            pattern.startswith(prefix) or matches(prefix + "x") for prefix in self._families
        )

    def built(self, event: Event) -> Built:
        """An event that the service itself made."""
        return Built(_tag(type(event)), event, self.encode(event))

    def build(self, fields: Mapping[str, Any], given: Mapping[str, Any], allowed: Collection[str]) -> Built:
        """An event from what a publisher sent (`fields`) and what the service knows (`given`).

        Raise InvalidEvent when the type is not in `allowed`, or a field is unknown (unless the type is open), not the
        publisher's to set, missing or of a wrong type.
        """
        name = fields.get("type")
        event = self._allowed(name, allowed)
        if event is None:
            names = sorted(set(allowed) & set(self._types))
            raise InvalidEvent(f"type must be one of {', '.join(names)}; got {name!r}")
        settable, wrong = self._settable[event], fields.keys() & given.keys()
        wrong |= fields.keys() & _RESERVED if event.open_fields else fields.keys() - settable
        wrong.discard("type")
        if wrong:
            strange, known = ", ".join(map(repr, sorted(wrong))), ", ".join(sorted(settable - given.keys()))
            raise InvalidEvent(f"{name} has no field {strange} to set; allowed: {known}")
        try:
            made = msgspec.convert({**fields, **given, "type": _tag(event)}, event)
        except msgspec.ValidationError as error:
            raise InvalidEvent(f"{name}: {error}") from None
        if not event.open_fields:
            return Built(str(name), made, self.encode(made))
        return Built(str(name), made, self._encoder.encode({"type": name, **given, **fields}))

    def _allowed(self, name: object, names: Collection[str]) -> type[Event] | None:
        if not isinstance(name, str):
            return None
        if name in names and name in self._types:
            return None if name.endswith("*") else self._types[name]
        for prefix, event in self._families.items():
            if _tag(event) in names and name.startswith(prefix) and _FAMILY_MEMBER.fullmatch(name[len(prefix) :]):
                return event
        return None

    def json_schema(self, ref_template: str = "#/$defs/{name}") -> dict[str, Any]:
        """JSON Schema of all the types, under `$defs`."""
        return {
            "$defs": json_schemas(self._types.values(), ref_template),
            "oneOf": [{"$ref": f"#/$defs/{event.__name__}"} for event in self._types.values()],
        }


def json_schemas(types: Iterable[type[Struct]], ref_template: str = "#/$defs/{name}") -> dict[str, Any]:
    """JSON Schema of each, and of what they have inside, by name; events of a family and open ones among them."""
    types = tuple(types)
    _, components = msgspec.json.schema_components(types, ref_template=ref_template)
    for struct in types:
        tag = struct.__struct_config__.tag
        if isinstance(tag, str) and tag.endswith("*"):
            prefix = re.escape(tag.removesuffix("*"))
            components[struct.__name__]["properties"]["type"] = {
                "type": "string",
                "pattern": f"^{prefix}{_FAMILY_MEMBER.pattern}$",
            }
    return components


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
