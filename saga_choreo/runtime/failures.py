"""What is kept of an exception, so that the same fault has the same fingerprint in every process, on every machine.

Of a stack only the functions are kept, by module and name: a line that moved or another folder is still the same fault. Frames of
this toolkit and of asyncio say nothing about the fault and are left out.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TypeVar

from saga_choreo.model.record import Failure, Record
from saga_choreo.runtime.operations import Broke
from saga_choreo.runtime.stored import storable

__all__ = ["TIMED_OUT", "failure_of", "fingerprint", "noted", "normalised", "stamped"]

_Answer = TypeVar("_Answer")
_FRAMES_MAX = 20
_LEFT_OUT = ("saga_choreo.", "asyncio.", "contextlib")
TIMED_OUT = Failure("TimeoutError")
# What differs between two of the same fault: ids, numbers, and what was quoted. The longest form first.
_VARIABLE = (
    (re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE), "<id>"),
    (re.compile(r"'[^']*'|\"[^\"]*\"|\u201c[^\u201d]*\u201d"), "<text>"),
    (re.compile(r"\b0x[0-9a-f]+\b|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "<n>"),
)


def failure_of(error: BaseException) -> Failure:
    """The exception as it is kept; times and place are filled in by who knows them. A chain of causes is part of the stack."""
    lines: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < 5:
        seen.add(id(current))
        if current is not error:
            lines.append(f"caused by {_name_of(current)}")
        lines += _frames(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return Failure(storable(_name_of(error)), storable("\n".join(lines)))


def _name_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _frames(error: BaseException) -> list[str]:
    found: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code, module = trace.tb_frame.f_code, str(trace.tb_frame.f_globals.get("__name__", "?"))
        if not module.startswith(_LEFT_OUT):
            found.append(f"{module}:{code.co_qualname}")
        trace = trace.tb_next
    return found[-_FRAMES_MAX:]


def stamped(answer: _Answer, agent: str, version: str) -> _Answer:
    """With the agent it failed in, if it is a failure."""
    if isinstance(answer, Broke) and answer.failure is not None:
        return replace(answer, failure=answer.failure._replace(agent=agent, version=version))
    return answer


def noted(record: Record, failure: Failure | None, now_ms: int) -> Failure | None:
    """What the record keeps from now on: the last failure, and when the first one was."""
    if failure is None:
        return record.failure
    first_ms = record.failure.first_ms if record.error and record.failure is not None else now_ms
    return failure._replace(first_ms=first_ms, last_ms=now_ms)


def normalised(text: str) -> str:
    """Words that are the same for the same fault."""
    for pattern, instead in _VARIABLE:
        text = pattern.sub(instead, text)
    return text


def fingerprint(*parts: str) -> str:
    """Twelve hexadecimal digits that name a group of dead letters."""
    return hashlib.sha256("\n\n".join(parts).encode("utf-8", "replace")).hexdigest()[:12]
