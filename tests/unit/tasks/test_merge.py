"""JSON Merge Patch: the examples of RFC 7396, and what they stand for."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tasks.merge import merge

APPENDIX_A: list[tuple[str, str, str]] = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
NAMES = st.sampled_from(["a", "b", "c", ""])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)


@pytest.mark.parametrize(("original", "patch", "result"), APPENDIX_A)
def test_the_examples_of_the_rfc(original: str, patch: str, result: str) -> None:
    assert merge(json.loads(original), json.loads(patch)) == json.loads(result)


@given(VALUES, VALUES)
def test_neither_argument_is_changed(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))
    merge(target, patch)
    assert (target, patch) == before


@given(VALUES)
def test_an_empty_patch_leaves_an_object_and_makes_one_of_anything_else(target: Any) -> None:
    assert merge(target, {}) == (target if isinstance(target, dict) else {})


@given(VALUES, VALUES)
def test_the_same_patch_again_changes_nothing(target: Any, patch: Any) -> None:
    once = merge(target, patch)
    assert merge(once, patch) == once


@given(OBJECTS, OBJECTS)
def test_each_member_is_removed_replaced_merged_or_left(target: dict[str, Any], patch: dict[str, Any]) -> None:
    merged = merge(target, patch)
    assert merged.keys() == (target.keys() | patch.keys()) - {name for name, value in patch.items() if value is None}
    for name, value in merged.items():
        assert value == (merge(target.get(name), patch[name]) if name in patch else target[name])


@given(OBJECTS, st.permutations(["a", "b", "c", ""]))
def test_the_order_of_a_patchs_members_does_not_matter(patch: dict[str, Any], order: list[str]) -> None:
    again = {name: patch[name] for name in order if name in patch}
    assert merge({"a": {"x": 1}, "b": 2}, again) == merge({"a": {"x": 1}, "b": 2}, patch)
