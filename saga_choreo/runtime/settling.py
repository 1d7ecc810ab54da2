"""What a handler's answer means to its record. One place for both lanes; pure."""

from __future__ import annotations

from typing import Any, assert_never

from saga_choreo.core.facts import DeadlinePassed, Declined, Failed, Resolved, Succeeded, UndoFailed, Undone, WentPending
from saga_choreo.core.graph import StepPlan
from saga_choreo.core.rows import UNDOS, Duty
from saga_choreo.model.record import Record, RecordKey, Resolution, Row
from saga_choreo.model.retry import OnExhausted, Retry
from saga_choreo.model.states import State
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.failures import TIMED_OUT, noted
from saga_choreo.runtime.operations import Answer, Broke, Executed, HeldBack, Overran, Ran, Rejected
from saga_choreo.runtime.timing import deadline_of, deadline_own_of
from saga_choreo.runtime.workspace import Workspace, is_uncalled

__all__ = [
    "counted",
    "deadline_passed",
    "died_too_often",
    "give_up",
    "goes_fast",
    "hand_back",
    "hand_back_unless_pending",
    "held_up",
    "hold_back",
    "is_same_attempt",
    "is_undo",
    "note_error",
    "HELD",
    "settle",
    "settle_uncalled",
    "word_on",
]

HELD = "held back: "
_HELD_UP = "held up its transaction: "
OVERRAN = "overran the fast lane's budget; goes on in the slow lane"


def is_undo(what: Duty) -> bool:
    return what in UNDOS


def settle(ws: Workspace, key: RecordKey, known: Known, what: Duty, answer: Executed, chance: float) -> None:
    """Apply the answer. A first failure in the fast lane counts as the first attempt."""
    if isinstance(answer, HeldBack):
        if _record(ws, key).lease_ms is not None:
            hand_back(ws, key, known)
        hold_back(ws, key, known, answer)
    elif is_undo(what):
        _settle_undo(ws, key, known, answer, chance)
    else:
        _settle_forward(ws, key, known, answer, chance)


def _settle_forward(ws: Workspace, key: RecordKey, known: Known, answer: Answer, chance: float) -> None:
    attempt = _record(ws, key).row.attempt
    match answer:
        case Ran(handled=handled, kept=kept, lock=lock):
            assert handled is not None
            if handled.pending:
                # Only the step's own deadline, if it has one, is due from now on.
                ws.act(key, WentPending(attempt), known, kept=kept, lease_ms=None, error="")
                return
            fact = Succeeded(attempt, handled.choice)
            taken = {"lock": lock} if lock else {}
            ws.act(key, fact, known, results=dict(handled.results), kept=kept, inputs={}, error="", lease_ms=None, **taken)
        case Rejected(reason=reason):
            _settle_rejection(ws, key, known, reason, chance)
        case Broke():
            _settle_failure(ws, key, known, answer, chance)
        case Overran():
            if _record(ws, key).lease_ms is None:  # the fast lane's budget, not an attempt's time-out
                ws.touch(key, error=OVERRAN)
                ws.retry_at(key, ws.now_ms)
            else:
                policy = known.options(key.step).retry.of(TimeoutError)
                _settle_failure(ws, key, known, Broke("timed out", retry=policy, failure=TIMED_OUT), chance)
        case _:
            assert_never(answer)


def _settle_rejection(ws: Workspace, key: RecordKey, known: Known, reason: str, chance: float) -> None:
    """A business no. A step that may not veto is tried again instead."""
    step, retry = known.plan.step(key.step), known.options(key.step).retry
    if step.may_veto or step.optional or _record(ws, key).row.abort:
        ws.act(key, Declined(_record(ws, key).row.attempt), known, reason=reason, inputs={}, lease_ms=None)
        return
    record = _counted(ws, key, known)
    ws.touch(key, error=f"refused, though declared retriable: {reason}", lease_ms=None)
    ws.act(key, Declined(record.row.attempt, retry.is_exhausted(record.row.attempt, _tried_s(record, ws.now_ms))), known)
    _back_off(ws, key, retry, record.row.attempt, chance)


def give_up(ws: Workspace, key: RecordKey, known: Known, what: Duty, error: str) -> None:
    """After the last attempt: park, or what the step's policy says instead. The attempts have been counted before."""
    attempt, options = _record(ws, key).row.attempt, known.options(key.step)
    ws.touch(key, error=error, lease_ms=None)
    if is_undo(what):
        ws.act(key, UndoFailed(attempt, True, go_on=options.on_park_continue), known)
    else:
        _act_failed(ws, key, known, Failed(attempt, True, veto=options.retry.on_exhausted is OnExhausted.VETO), error)


def _act_failed(ws: Workspace, key: RecordKey, known: Known, fact: Failed, error: str) -> None:
    # The reason travels with the ABORT when exhaustion is a veto; a parked step keeps its error only.
    gives_up = fact.exhausted and fact.veto
    ws.act(key, fact, known, **({"reason": f"gave up after {fact.attempt} attempts: {error}"[:1024]} if gives_up else {}))


def _settle_failure(ws: Workspace, key: RecordKey, known: Known, broke: Broke, chance: float) -> None:
    options = known.options(key.step)
    retry = broke.retry or options.retry
    record = _counted(ws, key, known)
    attempt = record.row.attempt
    # A call without a key that the provider knows may have happened: nobody but a person may say (rule 9b).
    exhausted = broke.final or options.unsafe_external or retry.is_exhausted(attempt, _tried_s(record, ws.now_ms))
    ws.touch(key, error=broke.error, lease_ms=None, failure=noted(record, broke.failure, ws.now_ms))
    _act_failed(ws, key, known, Failed(attempt, exhausted, veto=retry.on_exhausted is OnExhausted.VETO), broke.error)
    _back_off(ws, key, retry, attempt, chance)


def _settle_undo(ws: Workspace, key: RecordKey, known: Known, answer: Answer, chance: float) -> None:
    record = _record(ws, key)
    attempt, options = record.row.attempt, known.options(key.step)
    match answer:
        case Ran(undo_result=undo_result):
            ws.act(key, Undone(attempt), known, undo_result=undo_result, error="", lease_ms=None)
        case Overran() if record.row.state is State.DONE:
            ws.act(key, UndoFailed(attempt), known, error=OVERRAN)
            ws.retry_at(key, ws.now_ms)
        case Rejected() | Broke() | Overran():
            error = answer.error if isinstance(answer, Broke) else getattr(answer, "reason", "timed out")
            retry = _undo_policy(answer, options.undo_retry)
            exhausted = record.row.state is State.COMPENSATING and retry.is_exhausted(attempt, _tried_s(record, ws.now_ms))
            fact = UndoFailed(
                attempt, exhausted, refused=isinstance(answer, Rejected), go_on=exhausted and options.on_park_continue
            )
            failure = answer.failure if isinstance(answer, Broke) else TIMED_OUT if isinstance(answer, Overran) else None
            ws.touch(key, error=error, lease_ms=None, failure=noted(record, failure, ws.now_ms))
            ws.act(key, fact, known)
            _back_off(ws, key, retry, max(attempt, 1), chance)
        case _:
            assert_never(answer)


def _undo_policy(answer: Answer, retry: Retry) -> Retry:
    match answer:
        case Broke(retry=policy) if policy is not None:
            return policy
        case Overran():
            return retry.of(TimeoutError)
        case _:
            return retry


def hold_back(ws: Workspace, key: RecordKey, known: Known, held: HeldBack) -> None:
    """Nothing ran, so nothing is counted; the record waits in the store. The error of an attempt before is not hidden by it."""
    if settle_uncalled(ws, key, known):
        return
    record = _record(ws, key)
    ws.touch(key, error=HELD + held.why if _never_failed(record) else record.error)
    ws.retry_at(key, held.until_ms)


def settle_uncalled(ws: Workspace, key: RecordKey, known: Known) -> bool:
    """The saga is undone, and the outside was never called: a definite no (rule 14), which need not wait for its turn. Returns
    whether it was so."""
    record = _record(ws, key)
    if not is_uncalled(record):
        return False
    ws.act(key, Declined(record.row.attempt), known, error="", inputs={}, lease_ms=None)
    return True


def goes_fast(record: Record) -> bool:
    """Whether a local step that is due may run in the fast lane: nothing has gone wrong with it, it was only held back."""
    return record.row.attempt == 0 and _never_failed(record)


def _never_failed(record: Record) -> bool:
    return not record.error or record.error.startswith(HELD)


def hand_back(ws: Workspace, key: RecordKey, known: Known) -> None:
    """The agent stops in the middle of an attempt: it was not the step's fault, and whoever comes next may begin at once. Except
    where the call may not be repeated: the lease stays, and tells the next that a call was under way."""
    row = _record(ws, key).row
    if known.options(key.step).unsafe_external and row.state is State.RUNNING:
        ws.touch(key, error="the agent was stopped while the call was under way")
        ws.retry_at(key, ws.now_ms)
        return
    ws.touch(key, row=row._replace(attempt=max(row.attempt - 1, 0)), lease_ms=None)
    ws.retry_at(key, ws.now_ms)


def note_error(ws: Workspace, record: Record, known: Known, *, error: str) -> None:
    """A step that cannot run in the fast lane: it goes on in the slow one, where its attempts are counted."""
    del known
    ws.touch(record.record_key, error=f"{_HELD_UP}{error}")


def held_up(record: Record) -> bool:
    """Whether what follows from this record has held up its transaction before."""
    return record.error.startswith(_HELD_UP)


def hand_back_unless_pending(ws: Workspace, record: Record, known: Known) -> bool:
    """Returns whether there was an attempt to hand back."""
    is_under_way = record.lease_ms is not None and not record.row.pending
    if is_under_way:
        hand_back(ws, record.record_key, known)
    return is_under_way


def _record(ws: Workspace, key: RecordKey) -> Record:
    record = ws.get(key)
    assert record is not None, "only a loaded record is settled"
    return record


def _counted(ws: Workspace, key: RecordKey, known: Known) -> Record:
    """The slow lane has counted its attempt before it ran; the fast lane counts a failed one now."""
    record = _record(ws, key)
    return record if record.lease_ms is not None else ws.claim(key, known)


def _back_off(ws: Workspace, key: RecordKey, retry: Retry, attempt: int, chance: float) -> None:
    elapsed_s = _tried_s(_record(ws, key), ws.now_ms)
    ws.retry_at(key, ws.now_ms + int(1000 * retry.delay_after(attempt, chance, elapsed_s)))


def _tried_s(record: Record, now_ms: int) -> float:
    """How long this has been tried, in seconds."""
    return 0.0 if record.tried_since_ms is None else (now_ms - record.tried_since_ms) / 1000


def died_too_often(record: Record, known: Known, what: Duty, now_ms: int) -> bool:
    """All attempts are used up without an answer: the attempts died with their agents. A record with no lease has answered, and
    may have its last attempt when its time is over."""
    options = known.options(record.step)
    if what is Duty.CALL and options.unsafe_external and record.lease_ms is not None:
        return True
    retry = options.undo_retry if is_undo(what) else options.retry
    return retry.is_used_up(record.row.attempt, 0.0 if record.lease_ms is None else _tried_s(record, now_ms))


def is_same_attempt(now: Record, claimed: Record) -> bool:
    """And not settled yet: without a lease it is, by a commit of its own whose result was not known. When the first attempt began counts
    too: a person's retry begins to count attempts anew, with the same key where the call is the same."""
    return now.lease_ms is not None and counted(now) == counted(claimed)


def counted(record: Record) -> tuple[int, int, int | None]:
    """Which attempt of the record's step this is."""
    return record.row.attempt, record.row.key_no, record.tried_since_ms


def deadline_passed(ws: Workspace, record: Record, known: Known) -> bool:
    """Whether the saga's deadline or the step's own has passed and changed something."""
    key, step = record.record_key, known.plan.step(record.step)
    deadline = deadline_of(record, step)
    if deadline is not None and deadline <= ws.now_ms:
        return isinstance(ws.act(key, DeadlinePassed(), known, reason="the saga's deadline passed"), Row)
    own = deadline_own_of(record, step)
    if own is None or own > ws.now_ms:
        return False
    return isinstance(ws.act(key, DeadlinePassed(own=True), known, **_at_own_deadline(step)), Row)


def _at_own_deadline(step: StepPlan) -> dict[str, Any]:
    """What changes beside the row when the step's own deadline passes. The event of a deadline has nothing to tell but that it
    has passed; its model is checked to need no field."""
    if not step.deadline_choice:
        return {"reason": f"step {step.name!r} was not done by its own deadline"}
    results = {step.deadline_choice.bit_length() - 1: b"{}"}
    return {"results": results, "inputs": {}, "error": "", "lease_ms": None}


def word_on(record: Record, fact: Resolved, reason: str, now_ms: int) -> dict[str, Any]:
    """Who said what, when and why. Why a step fails, the whole saga hears, unless it is aborted for another reason already."""
    number = 1 if record.resolution is None else record.resolution.number + 1
    changes: dict[str, Any] = {"reason": reason} if fact.verb == "fail" and not record.row.abort else {}
    return changes | {"resolution": Resolution(fact.verb, fact.operator, reason, now_ms, record.row.attempt, number)}
