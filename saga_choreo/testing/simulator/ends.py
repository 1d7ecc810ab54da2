"""How sagas end: with the first cause there was and its reason, the same everywhere, and told to who asked to be told.

Causes are judged by what happened outside: nobody's cancel and no deadline that had passed end a saga in their name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, SagaState, State
from saga_choreo.testing.simulator.ledger import Ledger
from saga_choreo.testing.simulator.world import World

__all__ = ["Ends"]

# Clocks differ by two seconds.
_SKEW_S = 2.1
_ENDED_BY = {Cause.CANCELLED: SagaState.CANCELLED, Cause.TIMED_OUT: SagaState.TIMED_OUT}


class Ends:
    """Of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        # What was said of each saga's end; and whether old messages come again by now.
        self.outcomes: dict[str, set[str]] = {}
        self.is_late = False

    def _broken(self, code: str, ledger: Ledger, text: str) -> None:
        self._world.broken(code, text, ledger.number)

    def said(self, saga: str, outcome: str, ledgers: Mapping[UUID, Ledger]) -> None:
        """An end is published: of a saga that has ended so. A refusal that comes when all has been forgotten tells of no debt."""
        self.outcomes.setdefault(saga, set()).add(outcome)
        ledger = ledgers.get(UUID(saga))
        real = Outcome.OPEN if ledger is None or ORIGIN not in ledger.rows else ledger.rows[ORIGIN].outcome
        if ledger is not None and outcome != real.value and not (self.is_late and real is Outcome.FAILED):
            self._broken("S6", ledger, f"saga {ledger.number} is said to have ended as {outcome!r}, and is {real.value!r}")

    def committed(self, ledger: Ledger, old: Record | None, new: Record) -> None:
        before, row = Row() if old is None else old.row, new.row
        step = ledger.plan.step(new.step)
        if row.done_in | row.skip_in == step.all_in:
            ledger.ready_ms.setdefault(new.step, new.changed_ms)
        asks = row.cancel & Cancel.ASKED and not before.cancel & Cancel.ASKED
        if ((row.vetoer and not before.vetoer) or asks) and not new.reason:
            self._broken("L4", ledger, f"{ledger.name(new.step)} ends the saga, and nobody is told why")
        if row.vetoer and not before.vetoer and before.abort and new.step != ORIGIN:
            self._broken("S8", ledger, f"{ledger.name(new.step)} refuses though it knows that the saga aborts")
        if row.cause is not before.cause and row.outcome is Outcome.OPEN:
            self._caused(ledger, new)
        if new.step == ORIGIN and old is not None:
            self._of_origin(ledger, old, new)
        watches = row.state is State.OPEN and not row.cancel & Cancel.ASKED and new.deadline_ms is not None
        if watches and (new.due_ms is None or new.due_ms > (new.deadline_ms or 0)):
            self._broken("L3", ledger, f"nobody would notice that the deadline of saga {ledger.number} passes")
        if row.state is State.WAITING and row.abort and row.parked is Parked.PARKED:
            self._broken("L1", ledger, f"{ledger.name(new.step)} waits for a person, though it knows that the saga aborts")

    def _caused(self, ledger: Ledger, record: Record) -> None:
        cause, name = record.row.cause, ledger.name(record.step)
        if cause is Cause.CANCELLED and ledger.saga_id not in self._world.cancelled:
            self._broken("S8", ledger, f"{name} says that the saga was cancelled, which nobody has asked for")
        if cause is Cause.TIMED_OUT and record.row.vetoer and not self._is_late(ledger, record):
            self._broken("S8", ledger, f"{name} says that a deadline has passed, and none has")

    def _is_late(self, ledger: Ledger, record: Record) -> bool:
        now_ms = self._world.wall_ns() / 1e6 + 1000 * _SKEW_S
        of_saga = record.deadline_ms is not None and record.deadline_ms <= now_ms
        return of_saga or (record.deadline_own_ms is not None and self.own_is_over(ledger, record))

    def own_is_over(self, ledger: Ledger, record: Record) -> bool:
        """Whether the step's own deadline has passed, counted from when its last event came, by its agent's clock."""
        after_s = self._world.own_deadlines.get((record.definition, record.step))
        ready_ms = ledger.ready_ms.get(record.step)
        return after_s is not None and ready_ms is not None and self._world.wall_ns() / 1e6 - ready_ms > 1000 * (after_s - _SKEW_S)

    def _of_origin(self, ledger: Ledger, old: Record, new: Record) -> None:
        before, row = old.row, new.row
        if before.cause is not Cause.NONE and row.cause is not before.cause:
            self._broken("S8", ledger, f"saga {ledger.number} ended for {before.cause.value!r} first, now for {row.cause.value!r}")
        if old.reason and new.reason != old.reason:
            self._broken("S8", ledger, f"saga {ledger.number} ended because {old.reason!r} first, now because {new.reason!r}")
        told = row.cause is not before.cause and row.state is State.ABORTING and not row.vetoer
        if told and row.cause not in ledger.causes:
            causes = ", ".join(sorted(cause.value for cause in ledger.causes))
            self._broken(
                "S8", ledger, f"saga {ledger.number} ends for {row.cause.value!r}, but steps refused for {causes or 'nothing'}"
            )
        if told and not new.reason:
            self._broken("L4", ledger, f"saga {ledger.number} ends for {row.cause.value!r}, and does not say why")

    def finish(self, ledger: Ledger, records: Iterable[Record]) -> None:
        """All records of the saga agree with its origin."""
        origin = ledger.rows[ORIGIN]
        for record in records:
            row = record.row
            if (row.outcome, row.cause) != (origin.outcome, origin.cause):
                text = f"{ledger.name(record.step)} knows the end {row.outcome.value!r} ({row.cause.value!r}), the origin's is "
                self._broken("L2", ledger, f"{text}{origin.outcome.value!r} ({origin.cause.value!r})")
        if origin.outcome is Outcome.FAILED and not ledger.debts:
            self._broken("S7", ledger, f"saga {ledger.number} claims to have left a debt, and every undo was done")

    def finish_told(self, ledgers: Iterable[Ledger], services: Iterable[tuple[str, set[UUID]]]) -> None:
        """`services`: those of which all agents ask to be told, and the sagas of which they have records."""
        if self._world.faults.rates["loss"]:
            return
        by_id = {ledger.saga_id: ledger for ledger in ledgers if ORIGIN in ledger.rows}
        for service, sagas in services:
            for saga_id in sagas & by_id.keys():
                ledger = by_id[saga_id]
                wanted, said = _end(ledger.rows[ORIGIN]), self._world.told.get((service, saga_id), [])
                if any(state is not wanted for state in said) or (not said and saga_id not in self._world.worn):
                    text = f"service {service!r} was told that saga {ledger.number} is {[one.value for one in said]}, it is {wanted.value}"
                    self._broken("L2", ledger, text)


def _end(row: Row) -> SagaState:
    if row.outcome is Outcome.COMPLETED:
        return SagaState.COMPLETED
    if row.outcome is Outcome.FAILED:
        return SagaState.FAILED
    return _ENDED_BY.get(row.cause, SagaState.COMPENSATED)
