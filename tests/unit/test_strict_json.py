"""Payloads that two readers would read differently never get in; all others do, byte for byte."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_choreo.codec.faults import Fault
from saga_choreo.codec.strict_json import NESTING_MAX, check_object
from saga_choreo.errors import DecodeError

# Strings that look like structure, so that counting and scanning are led astray where they can be.
texts = st.text('":{}[]\\, \n\tab1é\U0001f600', max_size=8)
keys = st.sampled_from(["a", "b", "", '"', "\\", ":", "é"])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**308, 10**330)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)


class Pairs(list[tuple[str, Any]]):
    """An object as it is written: keys may repeat."""


trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(keys, inner), max_size=3).map(Pairs), max_leaves=10
)


def written(tree: Any, ascii_only: bool, space: str) -> str:
    if isinstance(tree, Pairs):
        body = ",".join(
            f"{space}{json.dumps(k, ensure_ascii=ascii_only)}{space}:{space}{written(v, ascii_only, space)}" for k, v in tree
        )
        return "{" + body + "}"
    if isinstance(tree, list):
        return "[" + f",{space}".join(written(v, ascii_only, space) for v in tree) + "]"
    return json.dumps(tree, ensure_ascii=ascii_only)


def repeats(tree: Any) -> bool:
    if isinstance(tree, Pairs):
        return len({k for k, _ in tree}) < len(tree) or any(repeats(v) for _, v in tree)
    return isinstance(tree, list) and any(repeats(v) for v in tree)


def verdict(body: bytes) -> str:
    try:
        check_object(body)
    except DecodeError as exc:
        return exc.code
    return ""


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(keys, trees), max_size=4).map(Pairs), st.booleans(), st.sampled_from(["", " ", "\n\t"]))
def test_duplicate_keys_are_found_and_nothing_else_is_taken_for_one(tree: Pairs, ascii_only: bool, space: str) -> None:
    assert verdict(written(tree, ascii_only, space).encode()) == ("duplicate_key" if repeats(tree) else "")


@given(st.binary(max_size=60) | st.text('{}[]",:\\u0eE1.-+Natrufls \n', max_size=30).map(str.encode))
def test_any_bytes_are_accepted_or_refused_with_a_word(body: bytes) -> None:
    code = verdict(body)
    assert code in {"", *Fault}
    if not code:
        assert isinstance(json.loads(body), dict)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [NESTING_MAX, NESTING_MAX + 1, 1_000, 10_000])
def test_nesting_is_bounded_exactly(opening: str, levels: int) -> None:
    closing = "]" if opening == "[" else "}"
    body = '{"x":' + opening * (levels - 1) + "1" + closing * (levels - 1) + "}"
    assert verdict(body.encode()) == ("" if levels <= NESTING_MAX else "nesting_too_deep")


def test_many_objects_side_by_side_and_brackets_in_strings_are_not_nesting() -> None:
    assert verdict(json.dumps({"rows": [{"n": [i]} for i in range(500)], "s": "[{" * 100}).encode()) == ""


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"a":1} x', "invalid_json"),
        (b'{"a":01}', "invalid_json"),
        (b"{'a':1}", "invalid_json"),
        (b'{"a":"\n"}', "invalid_json"),
        (b'\xef\xbb\xbf{"a":1}', "invalid_json"),
        ('{"a":1}'.encode("utf-16"), "invalid_utf8"),
        (b'{"a":"\xff"}', "invalid_utf8"),
        (b'{"a":"\\ud800"}', "invalid_utf8"),
        (b'{"a":NaN}', "not_a_number"),
        (b'{"a":-Infinity}', "not_a_number"),
        (b'{"a":1e999}', "not_a_number"),
        (b'{"a":1,"\\u0061":2}', "duplicate_key"),
        (b"[]", "payload_not_object"),
        (b" null", "payload_not_object"),
        (b"1" * 400, "payload_not_object"),
    ],
)
def test_each_fault_has_a_word_of_its_own(body: bytes, code: str) -> None:
    assert verdict(body) == code


@pytest.mark.parametrize("digits", [18, 20, 308, 400, 6_000])
def test_integers_of_any_length_are_accepted(digits: int) -> None:
    assert verdict(b'{"a":-' + b"7" * digits + b"}") == ""


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"' + b'\\"' * 32_000,
        b"[" * 65_000,
        b'{"' * 32_000,
        b'{"a":' + b'"\\u0022"' + b" " * 60_000 + b"x",
        ("{" + ",".join(f'"{i}":1' for i in range(7_000)) + ',"0":1}').encode(),
        b"{" + b'"a":1,' * 10_000 + b'"a":1}',
    ],
)
def test_no_body_within_the_limit_costs_more_than_a_moment(body: bytes) -> None:
    started = time.perf_counter()
    assert verdict(body) != ""
    assert time.perf_counter() - started < 0.5
