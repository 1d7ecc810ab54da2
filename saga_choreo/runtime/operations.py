"""The operations the pipeline asks for, and the answers it gets: the whole border between deciding and doing.

The pipeline is a generator of these. An agent carries them out on a real store and broker (`driver`), the simulator on
simulated ones; both run the same generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from saga_choreo.core.rows import Duty
from saga_choreo.model.record import Completion, Failure, Record, RecordKey
from saga_choreo.model.retry import Retry
from saga_choreo.model.states import Cause, Outcome
from saga_choreo.ports.broker import Delivery, Outgoing
from saga_choreo.ports.store import Held, Quarantined, SagaLock
from saga_choreo.runtime.declare.results import Handled

__all__ = [
    "Ack",
    "Admit",
    "Admitted",
    "Answer",
    "Begin",
    "Broke",
    "Claim",
    "Commit",
    "Complete",
    "Ending",
    "Execute",
    "Executed",
    "HeldBack",
    "Now",
    "Operation",
    "Overran",
    "Pause",
    "Publication",
    "Publish",
    "Ran",
    "Rejected",
    "Release",
    "Rollback",
    "Save",
    "Tell",
]


@dataclass(frozen=True, slots=True)
class Now:
    """Answer: (Unix nanoseconds, a random number in [0, 1) for jitter)."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Open a transaction. At most one is open in a pipeline at a time."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Lock and load the service's records of these sagas. Answer: the records."""

    sagas: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Complete:
    """Record the good end of sagas in one go, where nothing else is to be done. Answer: the sagas that have ended here by that, with all
    their records; the others are to be claimed and looked at."""

    ends: Sequence[Completion]
    now_ms: int


@dataclass(frozen=True, slots=True)
class Admit:
    """May the handler of this record run now? Asked in the open transaction, before `Execute` or before an attempt is claimed, and
    only for steps that declare a limit, a breaker or a lock; never for an undo. For a call to the outside it takes the step's lock
    (a plain step takes it in `Execute`). `waited`: the record was due, and goes before one that has just become ready.
    Answer: `Admitted`, or how it ends without a run: HeldBack, Rejected (a lock), Broke (no lock's name could be made)."""

    record: Record
    duty: Duty
    waited: bool


@dataclass(frozen=True, slots=True)
class Admitted:
    """`lock` is the name of the lock that is taken now, or that the record holds already."""

    lock: str = ""


@dataclass(frozen=True, slots=True)
class Execute:
    """Run the handler for this record's duty: `inside` the open transaction (a savepoint undoes only its writes), or in none
    (external steps). Answer: an `Executed`."""

    record: Record
    duty: Duty
    inside: bool
    budget_s: float


@dataclass(frozen=True, slots=True)
class Ran:
    """The handler did it. For an undo, `undo_result` is the payload of the compensation's event. `lock` was taken with it."""

    handled: Handled | None = None
    kept: bytes | None = None
    undo_result: bytes | None = None
    lock: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A business no. `was_run`: the handler said it; otherwise a lock that somebody else holds, and the handler was not called."""

    reason: str
    was_run: bool = True


@dataclass(frozen=True, slots=True)
class Broke:
    """A technical failure: `error` is for people (type and message), without payloads. `retry` is the policy that the step has for
    this class of errors; None: the step's own. `failure` is what is kept of the exception."""

    error: str
    final: bool = False
    retry: Retry | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Overran:
    """The budget was over; the handler was cancelled and its writes are undone."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Not run: a limit, a breaker or somebody else's lock was in the way. No attempt; the record is due again at `until_ms`."""

    until_ms: int
    why: str


Answer = Ran | Rejected | Broke | Overran
Executed = Answer | HeldBack


@dataclass(frozen=True, slots=True)
class Save:
    """Write records and what is not a record, in the open transaction."""

    records: Sequence[Record] = ()
    quarantined: Sequence[Quarantined] = ()
    held: Sequence[Held] = ()
    counters: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    unhold: Sequence[int] = ()
    unlock: Sequence[SagaLock] = ()


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit the open transaction; afterwards the saved records are facts."""


@dataclass(frozen=True, slots=True)
class Rollback:
    pass


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the same work is tried again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Publication:
    """Messages that one version of one record implies. When all are confirmed, that version is announced."""

    key: RecordKey
    version: int
    messages: tuple[Outgoing, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish, confirmed. What is not confirmed stays unannounced and is published again by the scan. No answer."""

    publications: Sequence[Publication]
    loose: Sequence[Outgoing] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """Acknowledge deliveries. Only ever asked after the commit that made them superfluous."""

    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class Release:
    """Hand deliveries back, to come again after the delay."""

    deliveries: Sequence[Delivery]
    delay_s: float


@dataclass(frozen=True, slots=True)
class Ending:
    """A saga has ended, as this service has just been told. `record` is one of its records here."""

    record: Record
    outcome: Outcome
    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Call the service's `on_outcome` callbacks. Answer: the sagas for which one failed and is to be called again."""

    endings: Sequence[Ending]


Operation = Now | Begin | Claim | Complete | Admit | Execute | Save | Commit | Rollback | Pause | Publish | Ack | Release | Tell
