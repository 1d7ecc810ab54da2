"""How a record is laid out in a table: one list of columns, shared by every SQL store, so that they cannot drift apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from saga_choreo.model.record import Failure, Record, Resolution, Row, pack_payloads, unpack_payloads
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State

__all__ = ["COLUMNS", "Column", "from_columns", "to_columns"]


@dataclass(frozen=True, slots=True)
class Column:
    """`kind` is one of text, int, bool, bytes; masks and times are ints (63 bits and sign: a mask has at most 64 bits)."""

    name: str
    kind: str
    nullable: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("service", "text"),
    Column("saga_id", "bytes"),
    Column("definition", "text"),
    Column("step", "int"),
    Column("state", "text"),
    Column("parked", "text"),
    Column("pending", "bool"),
    Column("abort", "bool"),
    Column("vetoer", "bool"),
    Column("debt", "bool"),
    Column("key_no", "int"),
    Column("done_in", "int"),
    Column("skip_in", "int"),
    Column("clear_in", "int"),
    Column("choice", "int"),
    Column("cancel", "int"),
    Column("cause", "text"),
    Column("attempt", "int"),
    Column("outcome", "text"),
    Column("operator", "text"),
    Column("choreography", "text"),
    Column("origin", "text"),
    Column("business_key", "text"),
    Column("deadline_ms", "int", nullable=True),
    Column("deadline_own_ms", "int", nullable=True),
    Column("inputs", "bytes", nullable=True),
    Column("results", "bytes", nullable=True),
    Column("kept", "bytes", nullable=True),
    Column("undo_result", "bytes", nullable=True),
    Column("reason", "text"),
    Column("error", "text"),
    Column("resolution", "text", nullable=True),
    Column("trace", "text"),
    Column("due_ms", "int", nullable=True),
    Column("lease_ms", "int", nullable=True),
    Column("tried_since_ms", "int", nullable=True),
    Column("lock_name", "text"),
    Column("nudges", "int"),
    Column("version", "int"),
    Column("announced", "int"),
    Column("changed_ms", "int"),
    Column("failure", "text", nullable=True),
)

Word = TypeVar("Word")
_SIGN = 1 << 63
# Looking a value up on its enum class costs several times as much.
_STATES = {one.value: one for one in State}
_PARKED = {one.value: one for one in Parked}
_CANCEL = {int(one): one for one in (Cancel.NO, *Cancel)}
_CAUSES = {one.value: one for one in Cause}
_OUTCOMES = {one.value: one for one in Outcome}
# `value` is worked out at each look (Python 3.11).
_TEXTS: dict[str, str] = {one: one.value for kind in (State, Parked, Cause, Outcome) for one in kind}


def _signed(mask: int) -> int:
    """A 64-bit mask as the signed integer that SQL columns hold."""
    return mask - (1 << 64) if mask & _SIGN else mask


def _unsigned(value: int) -> int:
    return value + (1 << 64) if value < 0 else value


def to_columns(record: Record) -> tuple[Any, ...]:
    """The record's values in the order of COLUMNS."""
    row = record.row
    return (
        record.service,
        record.saga_id.bytes,
        record.definition,
        record.step,
        _TEXTS[row.state],
        _TEXTS[row.parked],
        row.pending,
        row.abort,
        row.vetoer,
        row.debt,
        row.key_no,
        _signed(row.done_in),
        _signed(row.skip_in),
        _signed(row.clear_in),
        _signed(row.choice),
        int(row.cancel),
        _TEXTS[row.cause],
        row.attempt,
        _TEXTS[row.outcome],
        row.operator,
        record.choreography,
        record.origin,
        record.key,
        record.deadline_ms,
        record.deadline_own_ms,
        pack_payloads(record.inputs),
        pack_payloads(record.results),
        record.kept,
        record.undo_result,
        record.reason,
        record.error,
        None if record.resolution is None else json.dumps(record.resolution, ensure_ascii=False),
        record.trace,
        record.due_ms,
        record.lease_ms,
        record.tried_since_ms,
        record.lock,
        record.nudges,
        record.version,
        record.announced,
        record.changed_ms,
        None if record.failure is None else json.dumps(record.failure, ensure_ascii=False),
    )


def from_columns(values: Sequence[Any]) -> Record:
    """The record from values in the order of COLUMNS. Raises ValueError on values no version of the toolkit has written."""
    v = values
    row = Row(
        state=_known(_STATES, v[4]),
        parked=_known(_PARKED, v[5]),
        pending=bool(v[6]),
        abort=bool(v[7]),
        vetoer=bool(v[8]),
        debt=bool(v[9]),
        key_no=v[10],
        done_in=_unsigned(v[11]),
        skip_in=_unsigned(v[12]),
        clear_in=_unsigned(v[13]),
        choice=_unsigned(v[14]),
        cancel=_CANCEL[v[15]] if v[15] in _CANCEL else Cancel(v[15]),
        cause=_known(_CAUSES, v[16]),
        attempt=v[17],
        outcome=_known(_OUTCOMES, v[18]),
        operator=v[19],
    )
    return Record.of(
        service=v[0],
        saga_id=UUID(bytes=bytes(v[1])),
        definition=v[2],
        step=v[3],
        row=row,
        choreography=v[20],
        origin=v[21],
        key=v[22],
        deadline_ms=v[23],
        deadline_own_ms=v[24],
        inputs=unpack_payloads(v[25]),
        results=unpack_payloads(v[26]),
        kept=v[27],
        undo_result=v[28],
        reason=v[29],
        error=v[30],
        resolution=None if v[31] is None else _resolution(v[31]),
        trace=v[32],
        due_ms=v[33],
        lease_ms=v[34],
        tried_since_ms=v[35],
        lock=v[36],
        nudges=v[37],
        version=v[38],
        announced=v[39],
        changed_ms=v[40],
        failure=None if len(v) < len(COLUMNS) or v[41] is None else _failure(v[41]),  # kept before there was one
    )


def _known(members: Mapping[str, Word], value: str) -> Word:
    try:
        return members[value]
    except KeyError:
        raise ValueError(
            f"{value!r} is none of {sorted(members)}; the row was not written by this toolkit or by a newer one"
        ) from None


def _resolution(stored: str) -> Resolution:
    try:
        return Resolution(*json.loads(stored))
    except TypeError as exc:
        raise ValueError(f"a stored resolution cannot be read: {exc}; the row was not written by this toolkit") from exc


def _failure(stored: str) -> Failure:
    try:
        return Failure(*json.loads(stored))
    except TypeError as exc:
        raise ValueError(f"a stored failure cannot be read: {exc}; the row was not written by this toolkit") from exc
