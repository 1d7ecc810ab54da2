"""The answer to a pending step, from outside: `agent.complete_step(token, event)` and `agent.decline_step(token, reason)`.

Any process with an open agent of the step's service may give it. The answer is checked as if the handler had returned it, and
is committed with everything that follows from it; what then becomes due is left to an agent that serves.

The same answer again is accepted again for as long as the record keeps it (until the end of the saga is known here); another
answer, and any answer after that, is refused. So a webhook that is delivered twice does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saga_choreo.codec.notices import TEXT_BYTES_MAX, cut
from saga_choreo.codec.tokens import Token, read_token
from saga_choreo.core.facts import Completed, CompletionDeclined, Refusal
from saga_choreo.errors import DefinitionError, Refused, Reject, SagaNotFound, StoreConflict
from saga_choreo.model.record import Record, Row
from saga_choreo.model.states import Parked, State
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.declare.results import Handled, Pending
from saga_choreo.runtime.driver import Driver
from saga_choreo.runtime.session import Session

__all__ = ["complete", "decline"]

# An answer may overtake the commit that makes the step pending: the provider is quicker than we are.
_OVERTAKING_S = 5.0
_LOOK_S = 0.05
_HAPPENED = frozenset({State.DONE, State.COMPENSATING, State.COMPENSATED})
_REFUSED = frozenset({State.TOMB, State.SKIPPED, State.SKIPPED_CLEARED})


async def complete(session: Session, text: str, answer: object) -> None:
    """Raises Refused (not the token of a step that waits for this answer), SagaNotFound, DefinitionError (not what the step is
    declared to publish) and ResultTooLarge."""
    if isinstance(answer, Reject):
        await decline(session, text, answer.reason)
        return
    token, known = _place(session, text)
    bound = known.handlers.get(token.step)
    if bound is None or bound.only_undoes:
        raise Refused(
            f"this process has no handler for step {known.plan.step(token.step).name!r}, so it cannot check the answer; complete the "
            "step where the agent's handlers are declared"
        )
    if isinstance(answer, Pending):
        raise DefinitionError(
            f"step {bound.definition.name!r} is completed with Pending(); pass what the handler would have returned"
        )
    handled = bound.handled(answer)
    changes: dict[str, Any] = {"results": dict(handled.results), "inputs": {}, "error": "", "lease_ms": None}
    record = await _say(session, token, known, Completed(token.key_no, handled.choice), changes)
    if record is not None and not _is_done_with(record, token, handled):
        raise _late(record, token, known)


async def decline(session: Session, text: str, reason: str) -> None:
    """The outside says no: as when the handler raises Reject. Raises Refused, SagaNotFound."""
    token, known = _place(session, text)
    reason = cut(reason, TEXT_BYTES_MAX) or "refused"
    step = known.plan.step(token.step)
    changes: dict[str, Any] = {"reason": reason, "lease_ms": None}
    if not step.may_veto and not step.optional:
        changes = {"error": f"refused, though declared retriable: {reason}", "lease_ms": None}
    record = await _say(session, token, known, CompletionDeclined(token.key_no), changes)
    if record is not None and not (record.row.state in _REFUSED and record.reason == reason):
        raise _late(record, token, known)


def _place(session: Session, text: str) -> tuple[Token, Known]:
    try:
        token = read_token(text)
    except ValueError as exc:
        raise Refused(str(exc)) from exc
    known = session.catalog.get(token.definition)
    if known is None:
        raise Refused(
            f"the token's saga {str(token.saga_id)!r} has the definition {token.definition!r}, which {session.service!r} does not know; "
            "complete the step with the agent that made the token"
        )
    if token.step >= len(known.plan.steps) or known.plan.step(token.step).owner != session.service:
        step = known.plan.steps[token.step] if token.step < len(known.plan.steps) else None
        whose = f"step {step.name!r} belongs to {step.owner!r}" if step is not None else "there is no such step"
        raise Refused(f"the token is not for a step of {session.service!r}: {whose}; complete it with the agent of its owner")
    return token, known


async def _say(
    session: Session, token: Token, known: Known, fact: Completed | CompletionDeclined, changes: Mapping[str, Any]
) -> Record | None:
    """Commit the answer. The record that would not have it, if so."""
    until = session.clock.monotonic() + _OVERTAKING_S
    while True:
        try:
            steps = session.pipeline.command(
                token.saga_id, token.step, fact, definition=token.definition, runs=session.serves, **changes
            )
            answer = await Driver(session).run(steps)
        except StoreConflict:
            if session.clock.monotonic() >= until:
                raise
        else:
            if isinstance(answer, Row):
                return None
            record = None if answer is None else await _record(session, token)
            if record is None:
                raise SagaNotFound(
                    f"step {known.plan.step(token.step).name!r} of saga {str(token.saga_id)!r} is not known here; look whether this "
                    "process uses the store of the agent that made the token, and whether the saga is past the horizon"
                )
            assert isinstance(answer, Refusal)
            if not _may_wait_soon(record.row, token) or session.clock.monotonic() >= until:
                return record
        await session.clock.sleep(_LOOK_S)


async def _record(session: Session, token: Token) -> Record | None:
    records = await session.store.records(token.saga_id, session.service)
    return next((one for one in records if (one.definition, one.step) == (token.definition, token.step)), None)


def _may_wait_soon(row: Row, token: Token) -> bool:
    return row.state is State.RUNNING and row.parked is Parked.NO and not row.pending and row.key_no == token.key_no


def _is_done_with(record: Record, token: Token, handled: Handled) -> bool:
    """Whether this very answer is what the step has already. Its key number is known only until an undo begins anew at 0."""
    same_call = record.row.state is not State.DONE or record.row.abort or record.row.key_no == token.key_no
    same = record.row.choice == handled.choice and dict(record.results) == dict(handled.results)
    return record.row.state in _HAPPENED and same_call and same


def _late(record: Record, token: Token, known: Known) -> Refused:
    row, step = record.row, known.plan.step(token.step)
    what = f"step {step.name!r} of saga {str(record.saga_id)!r}"
    if row.state in _HAPPENED:
        by_deadline = step.deadline_choice and row.choice == step.deadline_choice
        how = (
            "its own deadline has passed, and that branch is taken"
            if by_deadline
            else "it was completed already, with another answer"
        )
        if not record.results:
            how += ", or with one that is not kept any more since the saga has ended"
        return Refused(f"{what} does not wait for an answer: {how}; nothing was changed")
    if row.state in _REFUSED:
        return Refused(f"{what} does not wait for an answer: it has ended as {row.state.name.lower()}; nothing was changed")
    if row.parked is not Parked.NO:
        return Refused(f"{what} is parked and waits for a person's word: saga-choreo steps show {record.saga_id} {step.name}")
    if row.key_no != token.key_no:
        return Refused(f"the token is of an earlier call of {what}, which was declined; the step has another token since")
    return Refused(f"{what} has not said yet that it waits for an answer; give the answer again a little later")
