"""The oracle: watches every effect and every commit, and says which promise was broken.

It keeps its own ledger of effects and judges by the graph, not by what the product concluded. Codes are those of the
protocol's invariants; FINAL checks are made once everything is healed and quiet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from saga_choreo.codec.wire import decode
from saga_choreo.core.emissions import emissions
from saga_choreo.core.graph import Plan
from saga_choreo.core.rows import is_finished
from saga_choreo.model.choreography import Undo
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN, Record, RecordKey, Row
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State
from saga_choreo.ports.broker import Outgoing
from saga_choreo.runtime.letters import event_of
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.simulator.blocked import Blocked
from saga_choreo.testing.simulator.carried import Carried
from saga_choreo.testing.simulator.copies import Copies
from saga_choreo.testing.simulator.effects import Effect
from saga_choreo.testing.simulator.ends import Ends
from saga_choreo.testing.simulator.guards import LockLedger
from saga_choreo.testing.simulator.hearsay import Hearsay
from saga_choreo.testing.simulator.ledger import Ledger, descendants_of
from saga_choreo.testing.simulator.policies import Policies
from saga_choreo.testing.simulator.situations import notice
from saga_choreo.testing.simulator.store import LockWrites, Write
from saga_choreo.testing.simulator.times import Times
from saga_choreo.testing.simulator.words import Words
from saga_choreo.testing.simulator.world import World

__all__ = ["Judged", "Oracle"]

# Clocks differ by two seconds, and who was down at the healing may stay down for half a minute.
_LATE_S = 60.0
_ABSORBING = frozenset({State.TOMB, State.SKIPPED_CLEARED, State.COMPENSATED, State.COMPLETED, State.ABORTED})
_ENDS = frozenset({"saga.completed", "saga.failed", "saga.timed_out", "saga.cancelled"})
# What only the protocol waits for: it goes wrong where that is missing.
_UNHEARD = _ENDS | {"step.skipped", "compensation.completed"}
_MAY_HAVE_RUN = frozenset({State.DONE, State.COMPENSATING, State.COMPENSATED})


class Judged(Protocol):
    """What is looked at of a store in the end."""

    service: str
    records: dict[UUID, dict[RecordKey, Record]]
    counters: dict[str, int]
    saga_locks: dict[str, UUID]


class Oracle:
    """One world's judge."""

    def __init__(
        self, world: World, plans: Mapping[str, Plan], locks: Mapping[tuple[str, int], str], limits: Limits, *, counts_runs: bool
    ) -> None:
        """`locks`: the name of the lock that a step of a definition takes. `limits`: those of all agents. `counts_runs`: it is told of
        every run of a step."""
        self._world = world
        self._plans = plans
        self._descendants = {definition: descendants_of(plan) for definition, plan in plans.items()}
        self.ledgers: dict[UUID, Ledger] = {}
        self.effects = 0
        self._locks = LockLedger(world, locks)
        self.carried = Carried(world, plans)
        self.hearsay = Hearsay(world)
        self.ends = Ends(world)
        self.policies = Policies(world, counts_runs=counts_runs)
        self._words = Words(world)
        self.blocked = Blocked(world)
        self.copies = Copies(world)
        self.times = Times(world, self.policies.options, limits)
        # By identity: what is said again as it was need not be read again.
        self._last_heard: dict[str, bytes] = {}
        world.hears = self._hear

    def _hear(self, message: Outgoing) -> None:
        headers = message.headers
        if "saga-quarantine-code" in headers:  # perhaps not even to be read
            self.copies.hear(message)
            return
        word = headers.get("ce-sagamsg", "")
        if word in _ENDS:
            self.ends.said(headers["ce-sagaid"], headers["ce-sagaoutcome"], self.ledgers)
        if word in _UNHEARD:
            return
        if self._last_heard.get(headers["ce-id"]) != message.body:
            self._last_heard[headers["ce-id"]] = message.body
            envelope = decode(message.channel, headers, message.body)
            self.carried.published(envelope)
            self.hearsay.hear(envelope)

    def expect(self, number: int, first: Record) -> None:
        """A saga that is about to be started."""
        plan = self._plans[first.definition]
        self.ledgers[first.saga_id] = Ledger(number, first, plan, self._descendants[first.definition])

    def _broken(self, code: str, ledger: Ledger, text: str) -> None:
        self._world.broken(code, text, ledger.number)

    def committed(self, writes: Sequence[Write], effects: Sequence[Effect], locks: LockWrites = ()) -> None:
        strange = next((new for _, new in writes if new.saga_id not in self.ledgers), None)
        if strange is not None:
            self._world.broken(
                "S12", f"there is a record of saga {str(strange.saga_id)!r} at {strange.service!r}, which nobody started"
            )
            return
        self._locks.written(locks)
        before: dict[tuple[UUID, int], Row] = {}
        for old, new in writes:
            ledger = self.ledgers[new.saga_id]
            if old is not None:
                before[(new.saga_id, new.step)] = old.row
            self._identity(ledger, new)
            ledger.rows[new.step] = new.row
            if new.row.vetoer and (old is None or not old.row.vetoer):
                ledger.causes.add(new.row.cause)
                ledger.vetoed_by = new.step if ledger.vetoed_by is None else ledger.vetoed_by
            # Before the effects: what is passed by or waived in this commit may let an undo of the same service happen in it.
            if new.row.parked is Parked.PASSED or (old is not None and ledger.is_waived(old.row, new)):
                ledger.debts.add(new.step)
            if old is not None and old.row.pending and new.row.state in (State.TOMB, State.SKIPPED):
                ledger.forward[new.step] = 0  # the provider took the order, and now says that it will not do it
        for effect in effects:
            self._local(effect, before.get((effect.saga_id, effect.step), Row()))
        for old, new in writes:
            self._row(self.ledgers[new.saga_id], Row() if old is None else old.row, new)
            self._words.committed(self.ledgers[new.saga_id], old, new)
            self.hearsay.committed(self.ledgers[new.saga_id], old, new)
            self.ends.committed(self.ledgers[new.saga_id], old, new)
            self.policies.committed(self.ledgers[new.saga_id], old, new)
            self.times.committed(self.ledgers[new.saga_id], old, new)
            notice(self._world, old, new)
            if new.step != ORIGIN:
                self._locks.moved(self.ledgers[new.saga_id], new.step)
        self._locks.judge()

    def _identity(self, ledger: Ledger, record: Record) -> None:
        said = (record.definition, record.origin, record.deadline_ms, record.key, record.choreography, record.trace)
        if said != ledger.identity:
            self._broken("S11", ledger, f"the record of {ledger.name(record.step)} disagrees with the saga it belongs to")

    def _local(self, effect: Effect, before: Row) -> None:
        """An effect that was committed together with its record."""
        ledger = self.ledgers[effect.saga_id]
        after = ledger.rows.get(effect.step, Row())
        if effect.is_undo:
            self.undo(effect)
            return
        if before.state is not State.WAITING and effect.by != "person":
            self._broken("S5", ledger, f"{ledger.name(effect.step)} took effect though it was {before.state.name} already")
        if after.state not in _MAY_HAVE_RUN:
            self._broken("S3", ledger, f"{ledger.name(effect.step)} took effect, but its record says {after.state.name}")
        self._forward(ledger, effect.step)
        if effect.by != "person":  # what a person does by hand needs no lock
            self._locks.forward(ledger, effect.step)

    def outside(self, effect: Effect) -> None:
        """An effect at a provider, with nothing committed here at the same time."""
        ledger = self.ledgers[effect.saga_id]
        if effect.is_undo:
            self.undo(effect)
            return
        if ledger.state(effect.step) is State.TOMB:
            self._broken("S5", ledger, f"{ledger.name(effect.step)} took effect outside after its tombstone")
        self._forward(ledger, effect.step)
        self._locks.forward(ledger, effect.step)

    def _forward(self, ledger: Ledger, step: int) -> None:
        self.effects += 1
        ledger.forward[step] += 1
        self._world.note("EFFECT", ledger.name(step))
        if ledger.forward[step] > 1:
            self._broken("S1", ledger, f"{ledger.name(step)} took effect {ledger.forward[step]} times")
        why = ledger.may_run(step)
        if why:
            self._broken("S3", ledger, f"{ledger.name(step)} took effect, but {why}")
        for other, after in enumerate(ledger.descendants):
            if step in after and ledger.undone[other]:
                self._broken("S5", ledger, f"{ledger.name(step)} took effect after {ledger.name(other)} before it was undone")

    def undo(self, effect: Effect) -> None:
        ledger, step = self.ledgers[effect.saga_id], effect.step
        self.effects += 1
        ledger.undone[step] += 1
        self._world.note("UNDO", ledger.name(step))
        if ledger.undone[step] > ledger.forward[step]:
            self._broken("S2", ledger, f"{ledger.name(step)} was undone {ledger.undone[step]} times, done {ledger.forward[step]}")
        if ledger.vetoed_by is None:
            self._broken("S8", ledger, f"{ledger.name(step)} was undone though nothing refused")
        for after in ledger.descendants[step]:
            if not ledger.is_settled(after):
                self._broken("S4", ledger, f"{ledger.name(step)} was undone before {ledger.name(after)}, which follows it")
            elif ledger.state(after) is State.RUNNING:
                self._broken("S4", ledger, f"{ledger.name(step)} was undone while {ledger.name(after)} runs")

    def _row(self, ledger: Ledger, before: Row, record: Record) -> None:
        row, step = record.row, record.step
        if row.state is not before.state or (step == ORIGIN and row.choice and not before.choice):
            self._owe(ledger, record)
        if before.state in _ABSORBING and row.state is not before.state:
            self._broken("S5", ledger, f"{ledger.name(step)} left {before.state.name} for {row.state.name}")
        if step == ORIGIN:
            if row.state is State.COMPLETED and not ledger.is_completed:
                self._in_time(ledger, record)
            ledger.is_completed = ledger.is_completed or row.state is State.COMPLETED
            if row.outcome is not Outcome.OPEN:
                self._world.ended[str(record.saga_id)] = None
        elif row.parked is Parked.PASSED:
            ledger.debts.add(step)  # for good, also if the undo is tried once more
        elif row.state is not before.state:
            self._moved(ledger, before, record)
        if ledger.is_completed and ledger.vetoed_by is not None:
            self._broken("S6", ledger, f"saga {ledger.number} completed, and {ledger.name(ledger.vetoed_by)} refused")

    def _in_time(self, ledger: Ledger, record: Record) -> None:
        """L3: without a pivot, and with nothing in its way, a saga is aborted when its deadline has passed."""
        world, has_pivot = self._world, any(step.pivot for step in ledger.plan.choreography.steps)
        if record.deadline_ms is None or world.healed_ns is None or has_pivot:
            return
        late_s = min(world.wall_ns() / 1e9 - record.deadline_ms / 1e3, (world.now_ns - world.healed_ns) / 1e9)
        if late_s > _LATE_S:
            self._broken("L3", ledger, f"saga {ledger.number} completed {late_s:.0f} s after its deadline had passed")

    def _moved(self, ledger: Ledger, before: Row, record: Record) -> None:
        """A step came into another state."""
        row, number = record.row, record.step
        step = ledger.plan.steps[number]
        if row.state in _MAY_HAVE_RUN and before.state not in _MAY_HAVE_RUN:
            self.carried.done(ledger, before, record)
        if step.deadline_choice and row.choice == step.deadline_choice and not before.choice:
            self._world.saw("own deadline published its event")
            if not self.ends.own_is_over(ledger, record):
                self._broken("L3", ledger, f"{ledger.name(number)} took the branch of its own deadline before that had passed")
        match row.state:
            case State.DONE if row.cancel & Cancel.HEARD and before.parked is not Parked.HUMAN:
                self._broken("L3", ledger, f"{ledger.name(number)} ran though it had been told to refuse")
            case State.DONE if not ledger.forward[number]:
                self._broken("S3", ledger, f"{ledger.name(number)} is done without any effect")
            case State.SKIPPED:
                self._skipped(ledger, before, number)
            case State.COMPENSATED:
                self._compensated(ledger, number)
            case State.TOMB:
                self._tombed(ledger, record)
            case _:
                pass

    def _tombed(self, ledger: Ledger, record: Record) -> None:
        step = ledger.plan.steps[record.step]
        if ledger.forward[record.step] and step.external:
            self._broken("S7", ledger, f"{ledger.name(record.step)} left a tombstone though the outside has done it")
        if record.row.vetoer and not step.may_veto:
            self._broken("S9", ledger, f"{ledger.name(record.step)} refused though it is retriable")
        if record.row.vetoer and step.optional and record.row.cause is Cause.REFUSED:
            self._broken("S8", ledger, f"{ledger.name(record.step)} aborted the saga though it is optional")

    def _skipped(self, ledger: Ledger, before: Row, number: int) -> None:
        edges, step = ledger.edges(number), ledger.plan.steps[number]
        by_choice = None not in edges and not (all(edges) if step.needs_all else any(edges))
        if ledger.forward[number]:
            self._broken("S7", ledger, f"{ledger.name(number)} was skipped though it has taken effect")
        if not by_choice and not step.optional and before.parked is Parked.NO:
            self._broken("S3", ledger, f"{ledger.name(number)} was skipped though its events came or may still come")

    def _compensated(self, ledger: Ledger, number: int) -> None:
        step = ledger.plan.steps[number]
        if step.undo is Undo.NONE:
            if not ledger.plan.choreography.steps[number].read_only:
                self._broken("S9", ledger, f"{ledger.name(number)} has no compensation and was asked for it")
            ledger.undone[number] += 1  # there is nothing to undo, but it must not run any more
        elif not ledger.undone[number] and number not in ledger.debts:
            self._broken("S7", ledger, f"{ledger.name(number)} counts as compensated without any effect")

    def finish(self, stores: Sequence[Judged], unacknowledged: int) -> None:
        """Everything is healed and quiet: S7, S10, L1, L2, L5, L6."""
        for ledger in self.ledgers.values():
            if ORIGIN in ledger.rows:
                self._final(ledger)
        for store in stores:
            for rows in store.records.values():
                for record in rows.values():
                    self._settled(record)
                if not self._world.violations and rows:
                    self.ends.finish(self.ledgers[next(iter(rows)).saga_id], rows.values())
            if store.counters.get("contradictions"):
                self._world.broken("S6", f"service {store.service!r} heard an outcome that contradicts what it did")
        self._locks.finish([(one.service, name) for one in stores for name in one.saga_locks], list(self.ledgers.values()))
        for owed in self._world.owed.values():
            if not owed.is_told:
                self._world.broken("S10", f"{owed.words} is committed, and nobody has published it", owed.saga)
        if unacknowledged:
            self._world.broken("L5", f"{unacknowledged} messages are still on the broker")

    def _settled(self, record: Record) -> None:
        ledger = self.ledgers[record.saga_id]
        if not is_finished(record.row):
            state = f"{record.row.state.name}, parked {record.row.parked.value!r}" if record.row.parked else record.row.state.name
            self._broken("L2", ledger, f"{ledger.name(record.step)} never learned the outcome; it is {state}")
        elif record.announced < record.version:
            self._broken("L6", ledger, f"{ledger.name(record.step)} still has something to say after the end")
        else:
            self.hearsay.told(ledger, record, ledger.words.get(record.step, 0))

    def _owe(self, ledger: Ledger, record: Record) -> None:
        """S10: whatever is committed gets published, also what no step here waits for: others read events too."""
        name = ledger.plan.step(record.step).name
        for message in emissions(record.row, ledger.plan.step(record.step), ledger.plan):
            event = event_of(message, ledger.plan) if message.kind in (MessageKind.DONE, MessageKind.UNDONE) else None
            is_silent = message.kind is MessageKind.UNDONE and record.undo_result is None
            if message.kind is MessageKind.OUTCOME or (event is not None and not is_silent):
                identity = (
                    f"{record.saga_id}/{message.kind.value}/{name}//{'' if event is None else f'{event.name}@{event.version}'}"
                )
                self._world.owes(identity, f"{message.kind.value} of step {name!r} of saga {ledger.number}", ledger.number)

    def _final(self, ledger: Ledger) -> None:
        outcome = ledger.rows[ORIGIN].outcome
        if outcome is Outcome.OPEN:
            states = ", ".join(f"{s.name}={ledger.state(s.index)}" for s in ledger.plan.steps)
            self._broken("L1", ledger, f"saga {ledger.number} never ended ({ledger.rows[ORIGIN].state.name}; {states})")
            return
        for number in range(len(ledger.plan.steps)):
            done, undone, state = ledger.forward[number], ledger.undone[number], ledger.state(number)
            if outcome is Outcome.COMPLETED and (undone or done != (state is State.DONE)):
                self._broken("S6", ledger, f"{ledger.name(number)}: done {done}, undone {undone} in a completed saga")
            if outcome is not Outcome.COMPLETED and (not ledger.is_settled(number) or state is State.RUNNING):
                self._broken("S7", ledger, f"{ledger.name(number)}: done {done}, undone {undone} in an aborted saga ({state.name})")
            if outcome is Outcome.ABORTED and number in ledger.debts:
                self._broken("S7", ledger, f"{ledger.name(number)} has a debt, and the saga claims to be cleanly aborted")
