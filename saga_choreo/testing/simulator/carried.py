"""What messages and records carry: every payload of the simulator says what it is of, so that one in the wrong place is seen.

A step gets the payloads of its in-edges, its undo gets what the step has published and kept, and readers get what was published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from saga_choreo.core.facts import Completed, Fact, Resolved
from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.model.envelope import Envelope, MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Outcome, Parked
from saga_choreo.testing.simulator.ledger import Ledger
from saga_choreo.testing.simulator.world import World

__all__ = ["KEPT", "UNDONE", "Carried", "payload_of", "results_of", "said_with", "text_of"]

# Beside the numbers of events.
KEPT, UNDONE = "kept", "undone"


def text_of(key: str, step: int, what: object) -> str:
    """What a payload says: of which saga, step and event it is."""
    return f"{key}/{step}/{what}"


def payload_of(key: str, step: int, what: object) -> bytes:
    return f'{{"of":"{text_of(key, step, what)}"}}'.encode()


def results_of(key: str, step: int, choice: int) -> dict[int, bytes]:
    """What a step publishes that has chosen these events."""
    return {number: payload_of(key, step, number) for number in range(choice.bit_length()) if choice >> number & 1}


def said_with(record: Record, fact: Fact) -> dict[str, Any]:
    """What comes with a person's or a program's word on a step: what it has published, where the word is that it has."""
    if not isinstance(fact, Completed | Resolved) or not fact.choice:
        return {}
    return {"results": results_of(record.key, record.step, fact.choice), "inputs": {}, "error": "", "lease_ms": None}


class Carried:
    """Of one world."""

    def __init__(self, world: World, plans: Mapping[str, Plan]) -> None:
        self._world = world
        self._plans = plans

    def _broken(self, ledger: Ledger | None, text: str) -> None:
        self._world.broken("L5", text, -1 if ledger is None else ledger.number)

    def done(self, ledger: Ledger, before: Row, record: Record) -> None:
        """A step has happened by this commit: what it has published and kept is in its record."""
        row, step = record.row, ledger.plan.steps[record.step]
        if row.outcome is not Outcome.OPEN:  # in the very same commit, which frees what is published
            return
        wanted = _results(step, record.key, row.choice)
        if dict(record.results) != wanted:
            self._broken(ledger, f"{ledger.name(record.step)} has published {wanted}, its record says {dict(record.results)}")
        kept = payload_of(record.key, record.step, KEPT)
        by_itself = before.parked is Parked.NO and (row.choice != step.deadline_choice or before.pending)
        if record.kept != kept and (by_itself or record.kept is not None):
            self._broken(ledger, f"{ledger.name(record.step)} has kept {kept!r} for its undo, its record says {record.kept!r}")
        ledger.kept[record.step] = record.kept
        if record.error and not row.abort:  # else its undo may be due already, and wait
            self._broken(ledger, f"{ledger.name(record.step)} is done, and still shows an error: {record.error}")

    def inputs(self, record: Record, plan: Plan) -> None:
        """A step runs: with what has come, however long that took, each on the edge that it came on."""
        edges = plan.steps[record.step].in_edges
        for bit, (source, event) in enumerate(edges):
            assert event is not None
            wanted, found = _input(plan, record.key, source, event), record.inputs.get(bit)
            if record.row.done_in >> bit & 1 and found != wanted:
                self._broken(None, f"step {record.step} of saga {record.key} gets {found!r} from in-edge {bit}, not {wanted!r}")

    def events(self, key: str, step: StepPlan, plan: Plan, found: Mapping[EventRef, bytes]) -> None:
        """The same as a handler sees it."""
        for event, payload in found.items():
            wanted = [_input(plan, key, source, event) for source, one in step.in_edges if one == event]
            if payload not in wanted:
                self._broken(None, f"step {step.name!r} of saga {key} gets {payload!r} as {event}, not {wanted}")

    def undo(self, ledger: Ledger, number: int, results: Mapping[int, bytes], kept: bytes | None) -> None:
        """An undo runs: with what its step has published and kept."""
        if number not in ledger.kept:  # it has happened in this very transaction
            return
        wanted = _results(ledger.plan.steps[number], ledger.identity[3], ledger.rows[number].choice)
        if dict(results) != wanted:
            self._broken(ledger, f"the undo of {ledger.name(number)} gets {dict(results)}, published was {wanted}")
        if kept != ledger.kept[number]:
            self._broken(ledger, f"the undo of {ledger.name(number)} gets {kept!r}, kept was {ledger.kept[number]!r}")

    def published(self, envelope: Envelope) -> None:
        """A broker has taken this event over."""
        plan, event = self._plans.get(envelope.definition), envelope.event
        if plan is None or event is None or envelope.kind not in (MessageKind.DONE, MessageKind.UNDONE):
            return
        source = plan.number(envelope.from_step)
        assert source is not None
        undone = envelope.kind is MessageKind.UNDONE
        wanted = payload_of(envelope.key, source, UNDONE) if undone else _input(plan, envelope.key, source, event)
        if envelope.payload != wanted:
            what = f"{event} of step {envelope.from_step!r} of saga {envelope.key}"
            self._broken(None, f"{what} is published as {envelope.payload!r}, not {wanted!r}")


def _results(step: StepPlan, key: str, choice: int) -> dict[int, bytes]:
    if choice == step.deadline_choice:  # the event of a deadline has nothing to tell
        return dict.fromkeys(_bits(choice), b"{}")
    return results_of(key, step.index, choice)


def _bits(mask: int) -> Iterator[int]:
    return (number for number in range(mask.bit_length()) if mask >> number & 1)


def _input(plan: Plan, key: str, source: int, event: EventRef) -> bytes:
    number = plan.step(source).outputs.index(event)
    if source != ORIGIN and 1 << number == plan.steps[source].deadline_choice:
        return b"{}"
    return payload_of(key, source, number)
