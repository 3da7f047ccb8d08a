"""Families of types, which end in a star, and types that may carry more than they name."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.errors import InvalidEvent, UnknownTypes
from shared.protocol.schema import MAX_PATTERN, MAX_PATTERNS, MAX_STARS, Delivery, Event, Schema
from tests.unit.protocol.sample import TS, record

GIVEN = {"tenant": "t", "ts": TS, "run_id": "run_1"}


class Custom(Event, frozen=True, kw_only=True, tag="custom.*"):
    delivery = Delivery.LATEST
    latest_key = "worker"
    open_fields = True
    run_id: str
    text: str | None = None


class Strict(Event, frozen=True, kw_only=True, tag="strict"):
    run_id: str
    text: str | None = None


SCHEMA = Schema([Custom, Strict])
ALLOWED = ("custom.*", "strict")
MEMBERS = st.from_regex(r"[a-z0-9_.]{1,100}", fullmatch=True)


@given(MEMBERS)
def test_every_member_of_a_family_is_built_as_itself(member: str) -> None:
    built = SCHEMA.build({"type": f"custom.{member}", "text": "x", "more": [1]}, GIVEN, ALLOWED)
    assert built.type == f"custom.{member}"
    assert isinstance(built.event, Custom)
    told = msgspec.json.decode(built.data)
    assert told == {
        "type": f"custom.{member}",
        "tenant": "t",
        "ts": told["ts"],
        "run_id": "run_1",
        "text": "x",
        "more": [1],
    }


@pytest.mark.parametrize(
    "name",
    [
        "custom.*",
        "custom.",
        "custom",
        "custom.A",
        "custom.x y",
        "custom.ä",
        "custom." + "x" * 101,
        "custom.x\n",
        7,
        None,
    ],
)
def test_what_is_no_member_is_refused_with_what_is_allowed(name: Any) -> None:
    with pytest.raises(InvalidEvent, match=r"type must be one of custom\.\*, strict"):
        SCHEMA.build({"type": name}, GIVEN, ALLOWED)


def test_a_family_that_is_not_allowed_has_no_members() -> None:
    with pytest.raises(InvalidEvent, match=r"type must be one of strict; got 'custom\.x'"):
        SCHEMA.build({"type": "custom.x"}, GIVEN, ["strict"])


@pytest.mark.parametrize("name", ["tenant", "ts", "run_id"])
def test_an_open_type_takes_any_field_but_those_that_the_service_sets(name: str) -> None:
    with pytest.raises(InvalidEvent, match=f"custom.x has no field '{name}' to set; allowed: text"):
        SCHEMA.build({"type": "custom.x", name: "mine", "more": 1}, GIVEN, ALLOWED)


def test_a_strict_type_takes_no_field_that_it_does_not_name() -> None:
    with pytest.raises(InvalidEvent, match="strict has no field 'more' to set; allowed: text"):
        SCHEMA.build({"type": "strict", "more": 1}, GIVEN, ALLOWED)


def test_a_field_of_an_open_type_that_is_named_must_be_of_its_type() -> None:
    with pytest.raises(InvalidEvent, match=r"custom\.x: "):
        SCHEMA.build({"type": "custom.x", "text": 7}, GIVEN, ALLOWED)


def test_what_holds_for_a_family_holds_for_its_members() -> None:
    assert SCHEMA.delivery("custom.x") is Delivery.LATEST
    assert SCHEMA.delivery("customs") is Delivery.CRITICAL
    first, other = (record(1, "custom.x", worker=worker) for worker in ("1", "2"))
    assert SCHEMA.latest_key(first) != SCHEMA.latest_key(other)
    assert SCHEMA.latest_key(first) == SCHEMA.latest_key(record(9, "custom.x", worker="1"))
    assert SCHEMA.latest_key(first) != SCHEMA.latest_key(record(1, "custom.y", worker="1"))
    assert SCHEMA.latest_key(first) != SCHEMA.latest_key(record(1, "custom.x", worker="1", tenant="other"))


@pytest.mark.parametrize("pattern", ["custom.x", "custom.*", "custom.a*b", "c*", "*", "custom.vote_1", "*x"])
def test_a_pattern_may_name_members_that_nobody_has_seen(pattern: str) -> None:
    assert SCHEMA.select([pattern, "strict", pattern]) == tuple(sorted({pattern, "strict"}))


@pytest.mark.parametrize("pattern", ["customx", "custo", "CUSTOM.x", "custom.x;", "", "b*"])
def test_a_pattern_beside_the_family_names_nothing(pattern: str) -> None:
    with pytest.raises(UnknownTypes, match=r"valid: custom\.\*, strict"):
        SCHEMA.select([pattern])


def test_patterns_are_bounded_in_number_length_and_stars() -> None:
    assert (MAX_PATTERNS, MAX_PATTERN, MAX_STARS) == (64, 100, 3)
    most = [f"custom.{number}" for number in range(MAX_PATTERNS)]
    assert len(SCHEMA.select(most)) == MAX_PATTERNS
    longest = "custom." + "x" * (MAX_PATTERN - len("custom."))
    assert SCHEMA.select([longest]) == (longest,)
    assert SCHEMA.select(["custom." + "*a" * MAX_STARS])
    for patterns in ([*most, "strict"], [longest + "x"], ["custom." + "*a" * (MAX_STARS + 1)]):
        with pytest.raises(
            UnknownTypes, match=f"up to {MAX_PATTERNS} patterns, each up to {MAX_PATTERN} characters and"
        ):
            SCHEMA.select(patterns)


def test_an_event_of_the_services_own_is_built_as_it_is() -> None:
    event = Strict(tenant="t", ts=TS, run_id="run_1", text="x")
    built = SCHEMA.built(event)
    assert (built.type, built.event, built.data) == ("strict", event, SCHEMA.encode(event))
    assert SCHEMA.types == {"custom.*": Custom, "strict": Strict}
    assert SCHEMA.names == ("custom.*", "strict")
