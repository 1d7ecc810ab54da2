"""The records of one transaction, in memory: facts go in, changed records and the messages they imply come out.

Pure. An edge between two steps of the same service (or to the origin's own row) is applied here, in the same commit, and
never travels; everything else becomes a message to be published after the commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from saga_choreo.core.emissions import Message, emissions
from saga_choreo.core.facts import Claimed, DoneCame, Fact, Refusal
from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.core.notices import Note, notices
from saga_choreo.core.routing import facts_for
from saga_choreo.core.rows import Duty, duty, is_finished, is_resolved
from saga_choreo.core.transitions import transition
from saga_choreo.model.envelope import Envelope
from saga_choreo.model.ids import started_ms
from saga_choreo.model.record import ORIGIN, Record, RecordKey, Row
from saga_choreo.model.states import Parked, State
from saga_choreo.ports.store import SagaLock
from saga_choreo.runtime.catalog import Catalog, Known
from saga_choreo.runtime.letters import TELLS_WHY, message_of, receiver_of
from saga_choreo.runtime.saying import Said, everything, is_needless
from saga_choreo.runtime.timing import Limits, due_of

__all__ = ["Applied", "Workspace", "is_uncalled"]


@dataclass(frozen=True, slots=True)
class Applied:
    """`wrong` says why the message can never be applied; `alarm` that it contradicts what happened here; `stale` names the
    steps it was for whose records are past the horizon and gone."""

    changed: bool = False
    stale: tuple[int, ...] = ()
    wrong: str = ""
    alarm: str = ""


_APPLIED = (Applied(), Applied(changed=True))
# Asked for several times a message; to look a member up on its class costs as much as a call (Python 3.11).
_RUNNING, _BEFORE_DONE, _UNDO_BEGINS = State.RUNNING, (State.WAITING, State.RUNNING), (State.DONE, State.COMPENSATING)
_LOCKS = (State.RUNNING, State.DONE, State.COMPENSATING)
_NOT_PARKED, _PARKED = Parked.NO, (Parked.PARKED, Parked.PASSED)


class _Carried(NamedTuple):
    """What a message brings along for the records it touches."""

    saga_id: UUID
    choreography: str
    definition: str
    origin: str
    key: str
    deadline_ms: int | None
    trace: str
    payload: bytes
    reason: str


class Workspace:
    """One transaction's view. Not reused after its commit."""

    def __init__(
        self,
        service: str,
        catalog: Catalog,
        limits: Limits,
        now_ms: int,
        chance: float,
        announced: Mapping[RecordKey, int] | None = None,
    ) -> None:
        """`announced` says which versions this process knows to be published, though the store may not say so yet."""
        self.service = service
        self._catalog = catalog
        self._limits = limits
        self.now_ms = now_ms
        self._chance = chance
        self._announced = announced or {}
        self._stored: dict[RecordKey, Record] = {}
        self._current: dict[RecordKey, Record] = {}
        self._by_saga: dict[UUID, list[RecordKey]] = {}
        self._messages: dict[RecordKey, list[Message]] = {}
        self._retry_at: dict[RecordKey, int] = {}
        self._duties: dict[RecordKey, None] = {}
        self._stale: list[int] = []

    def load(self, records: Iterable[Record]) -> None:
        for record in records:
            key = record.record_key
            self._stored[key] = record
            self._put(key, record)

    def get(self, key: RecordKey) -> Record | None:
        return self._current.get(key)

    def of_saga(self, saga_id: UUID) -> list[Record]:
        return [self._current[key] for key in self._by_saga.get(saga_id, ())]

    def _put(self, key: RecordKey, record: Record) -> None:
        if key not in self._current:
            self._by_saga.setdefault(key.saga_id, []).append(key)
        self._current[key] = record

    def receive(self, envelope: Envelope, known: Known) -> Applied:
        """Apply a message that came from outside."""
        message = message_of(envelope, known.plan)
        if isinstance(message, str):
            return Applied(wrong=message)
        if wrong := self._disagreement(envelope):
            return Applied(wrong=wrong)
        carried = _Carried(
            envelope.saga_id,
            envelope.choreography,
            envelope.definition,
            envelope.origin,
            envelope.key,
            envelope.deadline_ms,
            f"{envelope.traceparent}\n{envelope.tracestate}" if envelope.traceparent else "",
            envelope.payload,
            envelope.reason,
        )
        self._stale.clear()
        changed, alarm = self._deliver(message, carried, known)
        return Applied(changed, tuple(self._stale), alarm=alarm) if self._stale or alarm else _APPLIED[changed]

    def _disagreement(self, envelope: Envelope) -> str:
        """S11: all records of a saga agree; a message that disagrees changes nothing."""
        for record in self.of_saga(envelope.saga_id):
            if record.definition == envelope.definition and record.origin != envelope.origin:
                return f"it names the origin {envelope.origin!r}, the saga's is {record.origin!r}"
            if record.definition == envelope.definition and record.deadline_ms != envelope.deadline_ms:
                return f"it names the deadline {envelope.deadline_ms!r}, the saga's is {record.deadline_ms!r}"
        return ""

    def _deliver(self, first: Message, carried: _Carried, known: Known) -> tuple[bool, str]:
        """Apply a message and, in the same commit, what it makes this service say to itself."""
        waiting: deque[tuple[Message, _Carried]] = deque([(first, carried)])
        changed, alarm = False, ""
        while waiting:
            message, carried = waiting.popleft()
            is_origin = carried.origin == self.service
            for number, fact in facts_for(message, known.plan, self.service, is_origin=is_origin):
                said = self._apply(RecordKey(carried.saga_id, carried.definition, number), fact, carried, known)
                if isinstance(said, Refusal):
                    # Only of what came from outside: the rows claimed here may lack one that another transaction inserted
                    # meanwhile. An outcome that follows from this commit reaches that one with its broadcast.
                    alarm = said.reason if said.alarm and message is first else alarm
                elif said is not None:
                    changed = True
                    waiting.extend(said)
        return changed, alarm

    def act(self, key: RecordKey, fact: Fact, known: Known, **changes: Any) -> Row | Refusal | None:
        """Apply a fact that arose here (a handler's answer, a timer, a person). `changes` are the record's other fields.
        Returns the new row, None when nothing changed, or the refusal."""
        record = self._current[key]
        said = self._apply(key, fact, _carried_by(record, b"", record.reason), known, changes)
        if said is None or isinstance(said, Refusal):
            return said
        for message, carried in said:
            self._deliver(message, carried, known)
        return self._current[key].row

    def open_origin(self, record: Record, known: Known) -> None:
        """A new saga's origin row, with everything that follows from it in this service."""
        key = record.record_key
        self._put(key, record)
        for message, carried in self._follow(key, Row(), record, known, known.plan.step(key.step)):
            self._deliver(message, carried, known)

    def _apply(
        self, key: RecordKey, fact: Fact, carried: _Carried, known: Known, changes: dict[str, Any] | None = None
    ) -> list[tuple[Message, _Carried]] | Refusal | None:
        record = self._current.get(key)
        step = known.plan.step(key.step)
        if record is None and self._is_past_horizon(key.saga_id):
            self._stale.append(key.step)
            return None
        if record is None and key.step == ORIGIN:
            return None
        before = record.row if record is not None else Row()
        after = transition(before, fact, step)
        if isinstance(after, Refusal):
            return after
        if after == before:
            return None
        since_ms = _tried_since(before, after, record.tried_since_ms if record is not None else None, self.now_ms)
        fields = _carried_into(fact, record, carried)
        # What has changed may have to be told anew: the waits between repeated announcements begin again.
        fields["row"], fields["nudges"], fields["tried_since_ms"] = after, 0, since_ms
        if changes:
            fields.update(changes)
        record = (record or self._fresh(key, carried)).altered(fields)
        self._put(key, record)
        return self._follow(key, before, record, known, step)

    def _is_past_horizon(self, saga_id: UUID) -> bool:
        return started_ms(saga_id) < self.now_ms - int(self._limits.horizon_s * 1000)

    def _fresh(self, key: RecordKey, carried: _Carried) -> Record:
        return Record.of(
            service=self.service,
            saga_id=key.saga_id,
            definition=key.definition,
            step=key.step,
            row=Row(),
            choreography=carried.choreography,
            origin=carried.origin,
            key=carried.key,
            deadline_ms=carried.deadline_ms,
        )

    def _follow(self, key: RecordKey, before: Row, record: Record, known: Known, step: StepPlan) -> list[tuple[Message, _Carried]]:
        """Messages that the change implies: kept for publishing, or returned to be applied here at once."""
        plan = known.plan
        if duty(record.row, step) is not duty(before, step):
            self._duties[key] = None
        said_before = emissions(before, step, plan)
        here: list[tuple[Message, _Carried]] = []
        for message in emissions(record.row, step, plan):
            if message in said_before or is_needless(message, record, plan):
                continue
            receiver = receiver_of(message, record)
            if receiver != self.service:
                self._messages.setdefault(key, []).append(message)
            is_origin = record.origin == self.service
            if receiver in ("", self.service) and facts_for(message, plan, self.service, is_origin=is_origin):
                why = record.reason if message.kind in TELLS_WHY else ""
                here.append((message, _carried_by(record, record.results.get(message.event, b""), why)))
        return here

    def next_duty(self) -> tuple[Record, StepPlan, Known, Duty] | None:
        """The next record of this transaction with something to execute, in the order they arose."""
        while self._duties:
            key = next(iter(self._duties))
            del self._duties[key]
            record, known = self._current[key], self._catalog.get(key.definition)
            if known is None:
                continue
            step = known.plan.step(key.step)
            what = duty(record.row, step)
            if what is not None:
                return record, step, known, what
        return None

    def claim(self, key: RecordKey, known: Known) -> Record:
        """Count an attempt."""
        self.act(key, Claimed(), known)
        return self._current[key]

    def touch(self, key: RecordKey, **changes: Any) -> None:
        """Change fields beside the row."""
        self._put(key, self._current[key].but(**changes))

    def retry_at(self, key: RecordKey, at_ms: int) -> None:
        """What is to be executed for this record waits until then (a backoff, a lease)."""
        self._retry_at[key] = at_ms

    def changed(self) -> list[Record]:
        """The records to save, in key order, with version, timer and announcement worked out."""
        changed = [key for key, record in self._current.items() if record is not self._stored.get(key)]
        changed.sort(key=_in_order)
        return [self._finished(key, self._current[key], self._stored.get(key)) for key in changed]

    def _finished(self, key: RecordKey, record: Record, stored: Record | None) -> Record:
        known = self._catalog.get(key.definition)
        assert known is not None
        version = 1 if stored is None else stored.version + 1
        # A change with nothing to say needs no announcing, unless an earlier one is not known to be announced.
        told = record.announced if stored is None else max(stored.announced, self._announced.get(key, 0))
        caught_up = stored is None or told == stored.version
        step = known.plan.step(key.step)
        retry_at = self._retry_at.get(key) if self._retry_at else None
        goes_on = stored is not None and (is_uncalled(stored) or not is_uncalled(record))
        if retry_at is None and stored is not None and goes_on and duty(stored.row, step) is duty(record.row, step):
            retry_at = stored.due_ms  # the backoff or lease of something that was due before goes on
        announced = version if caught_up and key not in self._messages and not _news(record, stored) else told
        if record.deadline_own_ms is None:
            deadline_own_ms = self._deadline_own(record, step, known)
            record = record if deadline_own_ms is None else record.but(deadline_own_ms=deadline_own_ms)
        due = due_of(record, step, self._limits, self.now_ms, self._chance, retry_at)
        lock = record.lock if _keeps_lock(record) else ""
        freed: dict[str, Any] = {}
        if is_finished(record.row):
            freed = {"inputs": {}}
            if announced >= version:  # what it still has to say needs its results
                freed |= {"results": {}, "kept": None, "undo_result": None}
        if record.failure is not None and not record.error:  # it has succeeded since
            freed["failure"] = None
        # Said again, and nothing has changed: people ask since when a saga waits.
        changed_ms = stored.changed_ms if stored is not None and record.nudges > stored.nudges else self.now_ms
        return record.but(version=version, announced=announced, due_ms=due, changed_ms=changed_ms, lock=lock, **freed)

    def _deadline_own(self, record: Record, step: StepPlan, known: Known) -> int | None:
        """Counted from the commit in which the last in-edge is resolved (or, where a tool made it, from the agent's next one)."""
        after_s = known.options(step.index).deadline_s
        starts = record.row.state in _BEFORE_DONE and step.index != ORIGIN and is_resolved(record.row, step)
        return self.now_ms + int(after_s * 1000) if after_s is not None and starts else None

    def freed(self) -> list[SagaLock]:
        """The locks that end with this transaction: the record that took one gives it up, and no other of its saga keeps it."""
        locked = [record for record in self._current.values() if record.lock]
        kept = {(record.saga_id, record.lock) for record in locked if _keeps_lock(record)}
        gone = dict.fromkeys((record.saga_id, record.lock) for record in locked if not _keeps_lock(record))
        return [SagaLock(service=self.service, name=name, saga_id=saga_id) for saga_id, name in gone if (saga_id, name) not in kept]

    def whole(self, saved: Iterable[Record]) -> Iterable[Sequence[Record]]:
        """The records of each saga that was looked at, as they are after these were saved."""
        now = {record.record_key: record for record in saved}
        for keys in self._by_saga.values():
            yield [now.get(key) or self._stored[key] for key in keys]

    def said(self, saved: Iterable[Record]) -> list[Said]:
        """What the saved records say to the outside, to be published after the commit. A record whose earlier words are not
        known to be published says everything again."""
        words: list[Said] = []
        for record in saved:
            if record.announced == record.version:
                continue
            stored = self._stored.get(record.record_key)
            caught_up = stored is None or record.announced == stored.version
            new = tuple(self._messages.get(record.record_key, ()))
            if caught_up:
                words.append(Said(record, new, _news(record, stored)))
            else:
                words.append(Said(record, everything(record, self.plan(record)), notices(record)))
        return words

    def plan(self, record: Record) -> Plan:
        known = self._catalog.get(record.definition)
        assert known is not None
        return known.plan


def _in_order(key: RecordKey) -> tuple[int, str, int]:
    """As keys are ordered themselves, at a third of the cost."""
    return key.saga_id.int, key.definition, key.step


def _news(record: Record, stored: Record | None) -> tuple[Note, ...]:
    """What people are not told yet. Where it was parked before, another error or debt is no news."""
    told = notices(record)
    if not told or stored is None:
        return told
    known = {(kind, parking.round) for kind, parking, _ in notices(stored)}
    return tuple(note for note in told if (note.kind, note.parking.round) not in known)


def is_uncalled(record: Record) -> bool:
    """The saga is to be undone, and this step's call to the outside, which is due or held back, was never begun."""
    return record.row.state is _RUNNING and record.row.abort and record.tried_since_ms is None


def _keeps_lock(record: Record) -> bool:
    """A lock lasts from what the step does until it is undone or known never to be (S13): also while that is not known."""
    return record.row.state in _LOCKS and not is_finished(record.row)


def _tried_since(before: Row, after: Row, since_ms: int | None, now_ms: int) -> int | None:
    """When the first attempt of what this row is about began. None for certain: none ever has."""
    if after.state is not before.state and (before.state, after.state) != _UNDO_BEGINS:
        return None
    if before.parked in _PARKED and after.parked is _NOT_PARKED:  # a person's word gives it all its time again
        return now_ms
    return now_ms if since_ms is None and after.attempt > before.attempt else since_ms


def _carried_by(record: Record, payload: bytes, reason: str) -> _Carried:
    return _Carried(
        record.saga_id,
        record.choreography,
        record.definition,
        record.origin,
        record.key,
        record.deadline_ms,
        record.trace,
        payload,
        reason,
    )


def _carried_into(fact: Fact, record: Record | None, carried: _Carried) -> dict[str, Any]:
    """Fields of the record that a message changes beside the row."""
    fields: dict[str, Any] = {}
    if isinstance(fact, DoneCame):
        bits = [bit for bit in range(fact.edges.bit_length()) if fact.edges >> bit & 1]
        known: Mapping[int, bytes] = record.inputs if record is not None else {}
        fields["inputs"] = {**dict.fromkeys(bits, carried.payload), **known}
    if carried.trace and (record is None or carried.trace != record.trace):
        fields["trace"] = carried.trace
    if carried.reason and not (record and record.reason):
        fields["reason"] = carried.reason
    return fields
