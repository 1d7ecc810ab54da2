"""What people may say on a parked step, and what only they may decide: by the words of the protocol (rules 22 to 22d)."""

from __future__ import annotations

from saga_choreo.core.graph import StepPlan
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Parked, State
from saga_choreo.testing.simulator.ledger import Ledger
from saga_choreo.testing.simulator.world import World

__all__ = ["Words", "possible_words", "wrong_words"]

_WAITS = frozenset({Parked.PARKED, Parked.PASSED})


def possible_words(row: Row, step: StepPlan) -> frozenset[str]:
    """None of a step that is not parked."""
    if row.parked is Parked.HUMAN:
        return frozenset({"done", "give_back"})
    if row.parked is Parked.NO:
        return frozenset()
    match row.state:
        case State.WAITING:
            return frozenset({"retry", "waive", "take"})
        case State.RUNNING:
            may_fail = row.abort or step.may_veto or step.optional
            return frozenset({"retry", "done", "fail"} if may_fail else {"retry", "done"})
        case State.COMPENSATING:
            return frozenset({"retry", "done", "waive"})
        case _:
            return frozenset()


def wrong_words(row: Row) -> tuple[str, ...]:
    """What nobody may say on a step in this state; said when it has come into another one by then, it does no harm either."""
    if row.parked is Parked.HUMAN:
        return ("waive", "retry", "take", "fail")
    match row.state:
        case State.WAITING:
            return ("fail",)
        case State.RUNNING:
            return ("waive", "take", "give_back")
        case _:
            return ("fail", "take", "give_back")


class Words:
    """Of one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _broken(self, ledger: Ledger, record: Record, text: str) -> None:
        self._world.broken("L4", f"{ledger.name(record.step)} {text}", ledger.number)

    def committed(self, ledger: Ledger, old: Record | None, new: Record) -> None:
        """Before words are counted anew. What waits for people waits for them, unless the whole saga is called off."""
        if new.row.parked in _WAITS and not new.error:
            self._broken(ledger, new, "waits for people, and does not say what went wrong")
        if old is None or new.step == ORIGIN:
            return
        before, row, word = old.row, new.row, new.resolution
        if word is not None and word != old.resolution:
            step = ledger.plan.steps[new.step]
            if word.verb not in possible_words(before, step):
                self._broken(
                    ledger, new, f"takes {word.verb!r} for a word, though it is {before.state.name}, {before.parked.value!r}"
                )
            if before.parked is Parked.HUMAN and word.operator != before.operator:
                self._broken(ledger, new, f"is in the hands of {before.operator!r}, and does what {word.operator!r} says")
            # A plain step may have had its first attempt in this very commit.
            if word.verb == "retry" and row.state is before.state and row.attempt > (row.state is State.WAITING):
                self._broken(ledger, new, f"is tried again, and attempt {row.attempt} of before still counts")
        elif before.parked is Parked.HUMAN and row.parked is not Parked.HUMAN:
            self._broken(ledger, new, f"was taken out of the hands of {before.operator!r}")
        elif before.parked in _WAITS and before.state is not State.WAITING and row.parked is not before.parked:
            self._broken(ledger, new, f"waited for a word, and goes on as {row.state.name} without one")
