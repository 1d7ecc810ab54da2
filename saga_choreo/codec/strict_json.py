"""Is a payload JSON that every reader reads alike? Answered without building anything: the payload stays bytes.

This is the hot path, so it has two speeds. orjson checks the grammar (it refuses NaN, Infinity, bad UTF-8, lone
surrogates) in 3 microseconds per KiB, but lets duplicate keys and 1,024 levels pass, and takes an integer of more than
309 digits for an infinity. What it leaves open is settled cheaply: few brackets mean few levels, and a document that is
written again with as many strings as it had has lost no key. Only where that fails, to find the right word for the error,
and for such integers, is the document read a second time by the standard library.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn, cast

import orjson

from saga_choreo.codec.faults import Fault, fault, short

__all__ = ["NESTING_MAX", "check_object"]

# Deeper than any payload people write; far below the depth at which recursive readers in other languages give up.
NESTING_MAX = 32

# Strings (an unterminated one up to the end) and everything else between brackets: possessive, so that nothing is scanned twice.
_NOT_A_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[^"{}\[\]]++', re.DOTALL)


def check_object(body: bytes) -> None:
    """Raises DecodeError unless the bytes are one JSON object: UTF-8, at most NESTING_MAX levels, keys unique at each level,
    numbers finite. Integers may have any number of digits."""
    try:
        value = orjson.loads(body)
    except ValueError:
        _check_slowly(body)
        return
    # Valid JSON, so its first character says what it is.
    if body.lstrip()[:1] != b"{":
        raise _not_an_object()
    if body.count(b"{") + body.count(b"[") > NESTING_MAX and _is_too_deep(value):
        raise _too_deep()
    # Of duplicate keys the parser keeps the last, so what it has kept, written again, has fewer strings.
    again = orjson.dumps(value)
    if again != body and _strings(again) != _strings(body):
        _check_slowly(body)


def _is_too_deep(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(NESTING_MAX):
        level = [inner for outer in level for inner in _members(outer) if type(inner) is dict or type(inner) is list]
        if not level:
            return False
    return True


def _members(container: Any) -> Iterable[Any]:
    return cast("dict[str, Any]", container).values() if type(container) is dict else container


def _strings(document: bytes) -> int:
    """How many strings there are in a valid document, keys included, by counting quotes that are not escaped."""
    if b"\\" in document:
        document = document.replace(b"\\\\", b"").replace(b'\\"', b"")
    return document.count(b'"')


def _check_slowly(body: bytes) -> None:
    """Exact, and the source of the error's word. Also where integers beyond a double's range are let through."""
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise fault(Fault.INVALID_UTF8, f"the payload is not UTF-8 (byte {exc.start}); publish JSON as UTF-8") from exc
    # Before the parser, which is recursive.
    if _depth(text) > NESTING_MAX:
        raise _too_deep()
    try:
        # Integers stay text: Python refuses to convert more than 4,300 digits.
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite, parse_int=str)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise fault(Fault.INVALID_UTF8, "the payload has half of a surrogate pair in a string; escape whole characters") from exc
    except json.JSONDecodeError as exc:
        raise fault(
            Fault.INVALID_JSON, f"the payload is not JSON: {exc.msg} at character {exc.pos}; publish one JSON object"
        ) from exc
    if not isinstance(value, dict):
        raise _not_an_object()


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in _NOT_A_BRACKET.sub("", text):
        if char in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "}]":
            depth -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise fault(
            Fault.DUPLICATE_KEY, f"the payload has the key {short(twice)} twice in one object; readers disagree on which one counts"
        )
    return found


def _constant(word: str) -> NoReturn:
    raise fault(Fault.NOT_A_NUMBER, f"the payload has {word}, which JSON does not know; send null or a string")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise fault(
            Fault.NOT_A_NUMBER, f"the payload has the number {short(digits)}, beyond the range of a double; send it as a string"
        )
    return number


def _not_an_object() -> Exception:
    return fault(Fault.PAYLOAD_NOT_OBJECT, "the payload is JSON but not an object; publish events as objects")


def _too_deep() -> Exception:
    return fault(Fault.NESTING_TOO_DEEP, f"the payload is nested deeper than {NESTING_MAX} levels; flatten it")
