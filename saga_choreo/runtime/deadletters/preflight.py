"""What would become of a dead letter if it were replayed now: a verdict per letter, before anything moves. Pure.

A verdict is a forecast. What really happens is decided by the service's agent, by the same rules as for any message; the forecast
spares people a replay that can only fail, and says what to do instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from saga_choreo.core.graph import Plan
from saga_choreo.core.rows import is_finished
from saga_choreo.errors import DecodeError
from saga_choreo.model.envelope import Envelope, MessageKind
from saga_choreo.model.ids import started_ms
from saga_choreo.model.record import Record
from saga_choreo.model.states import Outcome, Parked
from saga_choreo.runtime.deadletters.letter import DeadLetter
from saga_choreo.runtime.letters import message_of

__all__ = ["Facts", "Judged", "Verdict", "judge_message", "judge_step"]

_UNREADABLE = f"{DecodeError.__module__}.{DecodeError.__qualname__}"
_ANSWERED = (MessageKind.ABORT, MessageKind.CLEAR)


class Verdict(StrEnum):
    READY = "ready"
    ENDED = "ended"
    STALE = "stale"
    FROM_THE_FUTURE = "from_the_future"
    UNDECODABLE = "undecodable"
    INAPPLICABLE = "inapplicable"
    UNKNOWN_DEFINITION = "unknown_definition"
    NO_HANDLER = "no_handler"
    TAKEN = "taken"
    PUT_ASIDE = "put_aside"
    BUSY = "busy"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Judged:
    """`moves`: a replay makes sense. `may_force`: it can be tried all the same."""

    verdict: Verdict
    why: str = ""

    @property
    def moves(self) -> bool:
        return self.verdict in (Verdict.READY, Verdict.ENDED)

    @property
    def may_force(self) -> bool:
        return self.verdict in (
            Verdict.STALE,
            Verdict.FROM_THE_FUTURE,
            Verdict.UNDECODABLE,
            Verdict.INAPPLICABLE,
            Verdict.NO_HANDLER,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known when a letter is judged: the saga's records here, its definition's plan, whether an agent of the service has
    announced that it holds that definition, and whether a job that is not over has the letter."""

    now_ms: int
    horizon_ms: int
    clock_bound_ms: int
    records: Sequence[Record] = ()
    plan: Plan | None = None
    is_held: bool = True
    is_busy: bool = False


def judge_message(letter: DeadLetter, envelope: Envelope | DecodeError, facts: Facts) -> Judged:
    if facts.is_busy:
        return Judged(Verdict.BUSY, "it is in a replay that is not over; see saga-choreo jobs list")
    if letter.state == "waiting":
        return Judged(
            Verdict.UNKNOWN_DEFINITION, "it is applied by itself once its definition comes; start the service that pins it"
        )
    if letter.state != "open":
        return Judged(Verdict.PUT_ASIDE, f"it is {letter.state}; restore it first")
    if isinstance(envelope, DecodeError):
        return Judged(Verdict.UNDECODABLE, f"{envelope.code}: {envelope}")
    if facts.plan is None:
        return Judged(Verdict.UNKNOWN_DEFINITION, f"no agent here knows {envelope.definition}; start the service that pins it")
    wrong = message_of(envelope, facts.plan)
    if isinstance(wrong, str):
        return Judged(Verdict.INAPPLICABLE, wrong)
    return _judge_time(envelope, facts)


def _judge_time(envelope: Envelope, facts: Facts) -> Judged:
    t0 = started_ms(envelope.saga_id)
    records = [record for record in facts.records if record.definition == envelope.definition]
    if t0 > facts.now_ms + facts.clock_bound_ms:
        return Judged(Verdict.FROM_THE_FUTURE, "the saga is said to start in the future; correct a clock")
    if not records and t0 < facts.now_ms - facts.horizon_ms and envelope.kind not in _ANSWERED:
        return Judged(Verdict.STALE, "the saga started before the horizon, and nothing is known of it any more")
    if records and all(is_finished(record.row) or record.row.outcome is not Outcome.OPEN for record in records):
        return Judged(Verdict.ENDED, "the saga has ended: a replay changes nothing")
    return Judged(Verdict.READY)


def judge_step(letter: DeadLetter, record: Record | None, facts: Facts) -> Judged:
    if facts.is_busy:
        return Judged(Verdict.BUSY, "it is in a replay that is not over; see saga-choreo jobs list")
    if record is None or record.row.parked is Parked.NO:
        return Judged(Verdict.GONE, "the step is not parked any more")
    if record.row.parked is Parked.HUMAN:
        return Judged(Verdict.TAKEN, f"{record.row.operator!r} has taken the step over")
    if facts.plan is None:
        return Judged(
            Verdict.UNKNOWN_DEFINITION, f"the definition {letter.definition} cannot be read here; start the service that pins it"
        )
    if not facts.is_held:
        return Judged(
            Verdict.NO_HANDLER, f"no agent of {letter.service!r} has announced handlers for this definition; start one that has"
        )
    if letter.code == _UNREADABLE:  # only the service's own code has the model, so whether it fits now is not known here
        return Judged(
            Verdict.READY, "what it has received did not fit its handler when it was last tried: run a release that reads it"
        )
    return Judged(Verdict.READY)
