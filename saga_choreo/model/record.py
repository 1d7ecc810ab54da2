"""One step's record in one saga: inbox, barrier and outbox in one row.

`Row` is the part the protocol decides on: small, hashable, the very value the model checker explores. `Record` is the
row with what it carries: identity, payloads, timers, versions. What a record implies it has said is derived from it
(`core.emissions`), so there is no outbox beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple
from uuid import UUID

from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State

__all__ = [
    "ORIGIN",
    "ORIGIN_NAME",
    "Completion",
    "Failure",
    "Record",
    "RecordKey",
    "Resolution",
    "Row",
    "completed",
    "pack_payloads",
    "unpack_payloads",
]

# The step number of the origin row: virtual source and sink of the saga, one row at the service that started it.
ORIGIN = -1
ORIGIN_NAME = "origin"


class Row(NamedTuple):
    """What the protocol knows of a step. Masks have one bit per in-edge (`done_in`, `skip_in`)
    or per successor step (`clear_in`)."""

    state: State = State.WAITING
    parked: Parked = Parked.NO
    pending: bool = False
    abort: bool = False
    vetoer: bool = False
    debt: bool = False
    key_no: int = 0
    done_in: int = 0
    skip_in: int = 0
    clear_in: int = 0
    choice: int = 0
    cancel: Cancel = Cancel.NO
    cause: Cause = Cause.NONE
    attempt: int = 0
    outcome: Outcome = Outcome.OPEN
    operator: str = ""


class RecordKey(NamedTuple):
    """Identity of a record. A message with another definition meets another record and can change nothing here."""

    saga_id: UUID
    definition: str
    step: int


class Resolution(NamedTuple):
    """The last word a person said on the parked step: who, when and why. `attempt` is the one after which it had been parked,
    `number` counts the words said on this step in this saga."""

    verb: str
    operator: str
    reason: str
    at_ms: int
    attempt: int
    number: int


class Failure(NamedTuple):
    """What went wrong with a step, beside the words of `error`: the exception's type, its stack as 'module:function' lines (no line
    numbers, no paths: the same fault has the same stack on every machine), when it failed first and last, where and under which code."""

    kind: str
    stack: str = ""
    first_ms: int = 0
    last_ms: int = 0
    agent: str = ""
    version: str = ""


class _KeyOnce:
    """A record's key, made when it is asked for first; copies of the record have it too."""

    def __get__(self, record: Record, _owner: type[Record]) -> RecordKey:
        key = record.__dict__["record_key"] = RecordKey(record.saga_id, record.definition, record.step)
        return key


@dataclass(frozen=True, kw_only=True)
class Record:
    """A row with what it carries. Times are Unix milliseconds; payloads are JSON bytes as they came.

    `inputs` maps the bit of an in-edge to its payload, `results` the number of a published event to its payload (the
    origin row keeps the start event there, under 0). `version` grows by one at every change; `announced` is the version
    whose emissions are known to be published. `deadline_own_ms` is the step's own deadline, counted from when all its
    in-edges were resolved. `tried_since_ms` is when the first attempt of what is to be done (or undone) now began; None: none
    has. `lock` is the semantic lock the step holds. `failure` is there at most as long as `error` is.
    """

    service: str
    saga_id: UUID
    definition: str
    step: int
    row: Row
    choreography: str
    origin: str
    key: str = ""
    deadline_ms: int | None = None
    deadline_own_ms: int | None = None
    inputs: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    results: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    kept: bytes | None = None
    undo_result: bytes | None = None
    reason: str = ""
    error: str = ""
    resolution: Resolution | None = None
    trace: str = ""
    due_ms: int | None = None
    lease_ms: int | None = None
    tried_since_ms: int | None = None
    lock: str = ""
    nudges: int = 0
    version: int = 0
    announced: int = 0
    changed_ms: int = 0
    failure: Failure | None = None

    record_key = _KeyOnce()

    @property
    def is_start(self) -> bool:
        """The origin row as the start of the saga wrote it: nothing has followed here yet."""
        return self.step == ORIGIN and self.version == 1

    def but(self, **changes: Any) -> Record:
        """The same with these fields changed: `dataclasses.replace` in a sixth of the time, which the hot path takes twenty times a saga."""
        return self.altered(changes)

    def altered(self, changes: Mapping[str, Any]) -> Record:
        """The same as `but`, where the changes are a mapping already."""
        record = _made(self.__dict__, changes)
        if not _IDENTITY.isdisjoint(changes):
            record.__dict__.pop("record_key", None)
        return record

    @staticmethod
    def of(**values: Any) -> Record:
        """What the constructor makes of all fields that have no default and any of the others, in a third of its time."""
        if not values.keys() >= _NEEDED:
            raise TypeError(f"a record needs the fields {sorted(_NEEDED - values.keys())}")
        return _made(_DEFAULTS, values)


def _made(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Record:
    # A frozen class's constructor sets field by field through `object.__setattr__`; a copied dictionary is one step.
    record = object.__new__(Record)
    values = record.__dict__
    values.update(base)
    values.update(changes)
    if len(values) != _FIELDS + ("record_key" in values):
        raise TypeError(f"not the fields of a record: {sorted(values.keys() ^ Record.__dataclass_fields__.keys())}")
    return record


_FIELDS = len(fields(Record))
_IDENTITY = frozenset({*RecordKey._fields, "record_key"})
_NEEDED = frozenset(one.name for one in fields(Record) if one.default is MISSING and one.default_factory is MISSING)
# Shared by all records that have none: payloads are replaced, never changed in place.
_DEFAULTS: dict[str, Any] = {one.name: one.default for one in fields(Record) if one.default is not MISSING} | {
    "inputs": {},
    "results": {},
}


class Completion(NamedTuple):
    """The good end of a saga, for one of its records: who says so, and the version of the record that is known to be published.
    `heard`: the end itself tells that others have read what the record says (but for what it tells people)."""

    key: RecordKey
    origin: str
    deadline_ms: int | None
    told: int = 0
    heard: bool = False

    def agrees_with(self, record: Record) -> bool:
        """Whoever says it means the saga that this record is of (S11)."""
        return (record.origin, record.deadline_ms) == (self.origin, self.deadline_ms)


def completed(record: Record, end: Completion, now_ms: int) -> Record | None:
    """What the saga's good end makes of a record that has nothing more to do or to say (rule 28): it is ended, its payloads are
    freed, nothing is due. None for every other record, of which more has to be looked at: `core.transitions` decides then."""
    row = record.row
    plain = row.outcome is Outcome.OPEN and row.state in (State.DONE, State.SKIPPED) and not row.abort and not record.lock
    is_told = max(record.announced, end.told) >= record.version or (end.heard and record.resolution is None)
    if not plain or not end.agrees_with(record) or not is_told:
        return None
    return record.but(
        row=row._replace(outcome=Outcome.COMPLETED, cause=Cause.NONE),
        inputs={},
        results={},
        kept=None,
        undo_result=None,
        due_ms=None,
        nudges=0,
        version=record.version + 1,
        announced=record.version + 1,
        changed_ms=now_ms,
        failure=record.failure if record.error else None,
    )


def pack_payloads(payloads: Mapping[int, bytes]) -> bytes | None:
    """Payloads by number as one blob: number (2 bytes), length (4 bytes), bytes, repeated. None when there are none."""
    if not payloads:
        return None
    parts: list[bytes] = []
    for number in sorted(payloads):
        body = payloads[number]
        parts += (number.to_bytes(2, "big"), len(body).to_bytes(4, "big"), body)
    return b"".join(parts)


def unpack_payloads(blob: bytes | None) -> dict[int, bytes]:
    """The inverse of `pack_payloads`. Raises ValueError on a blob cut short."""
    payloads: dict[int, bytes] = {}
    at = 0
    while blob and at < len(blob):
        number, size = int.from_bytes(blob[at : at + 2], "big"), int.from_bytes(blob[at + 2 : at + 6], "big")
        at += 6
        payloads[number] = blob[at : at + size]
        # Also where the cut is inside number or length: what is left of them must not pass for an empty payload.
        if at + size > len(blob):
            raise ValueError("a stored payload is cut short; the row was not written by this toolkit or is damaged")
        at += size
    return payloads
