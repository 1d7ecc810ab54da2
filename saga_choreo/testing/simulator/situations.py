"""Rare situations worth reaching. A full run that never meets one of them tests less than it says, and fails."""

from __future__ import annotations

from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Cause, Outcome, Parked, State
from saga_choreo.runtime.settling import HELD
from saga_choreo.testing.simulator.world import World

__all__ = ["LIVE_SITUATIONS", "SITUATIONS", "notice"]

# What a full run has to reach; situations that need message loss or re-announcing are listed apart.
SITUATIONS = (
    "crash before a commit",
    "crash between commit and ack",
    "crash between commit and publish",
    "crash while publishing",
    "crash during a call to the outside",
    "commit refused",
    "commit unknown, applied",
    "commit unknown, not applied",
    "waited for a row",
    "two inserts of one record met",
    "publish refused",
    "publish accepted, but an error",
    "message duplicated",
    "message held until all was quiet",
    "acknowledgement lost",
    "redelivered while it was worked on, or after",
    "delivered more than three times",
    "delivered after the end",
    "republished by a scan",
    "ABORT before DONE",
    "aborted while a call was out",
    "undone after a call came back",
    "undo tried again",
    "attempt stalled",
    "attempt after a lease ran out",
    "overran into the slow lane",
    "a step held up a shared transaction for too long",
    "a word that is not possible",
    "step went pending",
    "pending step completed",
    "own deadline published its event",
    "nobody completed a pending step",
    "parked",
    "parked and resolved",
    "taken over by a person",
    "undo parked",
    "undo waived",
    "ended with a debt",
    "undo passed by",
    "cancelled",
    "cancel too late",
    "cancel asked at a participant",
    "deadline veto",
    "choice skipped",
    "optional step skipped",
    "provider did it, answer lost",
    "provider call lost",
    "provider declined",
    "callback told again",
    "ended in bulk",
    "quarantined: unreadable",
    "quarantined: from_the_future",
    "quarantined: inapplicable",
    "kept on hold for a definition nobody knows",
    "applied once its definition had come",
    "messages came again after the horizon",
    "quarantined: stale",
    "held back by a concurrency limit",
    "held back by a rate limit",
    "held back by a circuit breaker",
    "held back by a lock",
    "refused over a lock",
    "waited for a lock's row",
    "given up while it was held back",
    "a probe closed the breaker",
    "a probe failed",
)

# What a full run of real agents has to reach.
LIVE_SITUATIONS = (
    "crash of an agent",
    "graceful stop",
    "a definition came late",
    "an agent was cut off from its store",
    "two calls of a step at once",
    "a heartbeat told that the attempt does not count any more",
    *(
        situation
        for situation in SITUATIONS
        if situation
        not in (
            "crash before a commit",
            "crash between commit and ack",
            "crash between commit and publish",
            "crash while publishing",
            "crash during a call to the outside",
            "waited for a row",
            "two inserts of one record met",
            "message held until all was quiet",
            "redelivered while it was worked on, or after",
            "message duplicated",
            "delivered more than three times",
            "delivered after the end",
            "ended in bulk",
            "attempt stalled",
            "applied once its definition had come",
            "messages came again after the horizon",
            "quarantined: stale",
            "waited for a lock's row",
            "a probe closed the breaker",
            "a probe failed",
        )
    ),
)


def notice(world: World, old: Record | None, new: Record) -> None:
    """Recognise situations from a record that was just committed."""
    before, row = Row() if old is None else old.row, new.row
    if new.error.startswith(HELD) and (old is None or old.error != new.error):
        _held_back(world, new)
    if row == before:
        return
    if new.step == ORIGIN:
        if row.outcome is Outcome.FAILED and before.outcome is Outcome.OPEN:
            world.saw("ended with a debt")
        return
    if row.state is not before.state:
        _moved(world, old, before, new)
    if row.parked is not before.parked:
        _parked(world, before, row)
    if row.attempt > before.attempt and row.state is before.state and old is not None:
        if old.lease_ms is not None and not before.pending:
            world.saw("attempt after a lease ran out")
        if row.state is State.COMPENSATING and before.attempt > 0:
            world.saw("undo tried again")
    if row.abort and not before.abort and row.state is State.RUNNING:
        world.saw("aborted while a call was out")
    if row.pending and not before.pending:
        world.saw("step went pending")


def _held_back(world: World, record: Record) -> None:
    """By the words an operator reads."""
    for word in ("concurrency limit", "rate limit", "circuit breaker", "lock"):
        if word in record.error:
            world.saw(f"held back by a {word}")
            return


def _moved(world: World, old: Record | None, before: Row, new: Record) -> None:
    row = new.row
    if row.state is State.TOMB:
        if row.vetoer and "is held by saga" in new.reason and before.cause is Cause.NONE:
            world.saw("refused over a lock")
        if old is not None and old.error.startswith(HELD):
            world.saw("given up while it was held back")
        if old is None:
            world.saw("ABORT before DONE")
        if row.vetoer and row.cause is Cause.TIMED_OUT:
            world.saw("deadline veto")
    elif row.state is State.SKIPPED:
        by_itself = (row.done_in, row.skip_in) == (before.done_in, before.skip_in)
        world.saw("optional step skipped" if by_itself else "choice skipped")
    elif before.state is State.RUNNING and before.abort and row.state in (State.COMPENSATING, State.COMPENSATED, State.DONE):
        world.saw("undone after a call came back")


def _parked(world: World, before: Row, row: Row) -> None:
    if row.parked is Parked.HUMAN:
        world.saw("taken over by a person")
    elif row.parked is Parked.PASSED:
        world.saw("undo passed by")
    elif row.parked is Parked.PARKED and before.parked is Parked.NO:
        world.saw("undo parked" if row.state is State.COMPENSATING else "parked")
    elif row.parked is Parked.NO:
        world.saw("parked and resolved")
