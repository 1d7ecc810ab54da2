"""Deliveries of a batch, sorted: what can be applied, what has to wait for its definition, what can never be applied.

Everything received ends as applied, ignored (a duplicate), held, or quarantined; nothing is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from uuid import UUID

from saga_choreo.codec.wire import decode, is_plain
from saga_choreo.core.emissions import Message
from saga_choreo.core.rows import is_finished
from saga_choreo.core.stale import stale_answer
from saga_choreo.errors import DecodeError
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.ids import started_ms
from saga_choreo.model.record import Completion, Record, RecordKey, Row
from saga_choreo.model.states import Cause, Outcome
from saga_choreo.ports.broker import Delivery, Outgoing
from saga_choreo.ports.store import Held, Quarantined
from saga_choreo.runtime.catalog import Catalog, Known
from saga_choreo.runtime.ended import Ended
from saga_choreo.runtime.letters import harmless, letter_of, message_of
from saga_choreo.runtime.operations import Ending
from saga_choreo.runtime.presuming import Presuming
from saga_choreo.runtime.timing import Limits
from saga_choreo.runtime.workspace import Workspace

__all__ = ["Arrival", "Decoded", "Extras", "Replay", "Sorted", "sort_arrivals"]

_log = logging.getLogger("saga_choreo.arrivals")
_DLQ = Channel(ChannelKind.DLQ)
_OUTCOME, _COMPLETED, _NO_CAUSE = MessageKind.OUTCOME, Outcome.COMPLETED, Cause.NONE
# A callback that fails is called again with every redelivery, up to this many; then the end stands untold, with an error in the log.
_TOLD_MAX = 10


@dataclass(slots=True)
class Replay:
    """A dead letter that is applied once more; `detail` says what came of it. If it cannot be applied, `code` says why: it is a
    letter already, so no other is made of it. `is_suspect`: it may have killed its agent before, so its step goes through the slow lane."""

    is_suspect: bool = False
    code: str = ""
    detail: str = ""


@dataclass(slots=True, eq=False)
class Arrival:
    """One message to be handled: from the broker (`delivery`), one that was held (`held_number`), looked at for the so many-th time
    (`looks`), or one that a person wants to be applied once more (`replay`)."""

    channel: Channel
    headers: Mapping[str, str]
    body: bytes
    delivery: Delivery | None = None
    held_number: int | None = None
    replay: Replay | None = None
    looks: int = 1

    @property
    def times(self) -> int:
        """How often it has come."""
        return self.looks if self.delivery is None else self.delivery.attempt

    @staticmethod
    def of(delivery: Delivery) -> Arrival:
        return Arrival(delivery.channel, delivery.headers, delivery.body, delivery)


class Decoded:
    """What is known of a batch's arrivals, by their `id`. One that is done in parts, or once more, is decoded once; and what was presumed
    to be new and had no turn yet (`presumed`) still is."""

    __slots__ = ("_all", "envelopes", "presumed")

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self.envelopes = {id(arrival): _decoded(arrival) for arrival in arrivals}
        self.presumed: set[int] = set()
        self._all = {one.saga_id for one in self.envelopes.values() if isinstance(one, Envelope)}

    def sagas_of(self, arrivals: Sequence[Arrival]) -> set[UUID]:
        if len(arrivals) == len(self.envelopes):
            return self._all.copy()
        found = (self.envelopes[id(arrival)] for arrival in arrivals)
        return {envelope.saga_id for envelope in found if isinstance(envelope, Envelope)}

    def are_done(self, sagas: Set[UUID]) -> None:
        """What was to be done for these is committed: nothing of them is new any more."""
        envelopes = ((one, self.envelopes[one]) for one in self.presumed)
        self.presumed = {one for one, envelope in envelopes if isinstance(envelope, Envelope) and envelope.saga_id not in sagas}


def _decoded(arrival: Arrival) -> Envelope | DecodeError:
    try:
        return decode(arrival.channel, arrival.headers, arrival.body)
    except DecodeError as error:
        return error


@dataclass(frozen=True, slots=True)
class Extras:
    """What a batch writes beside records, and the letters it sends beside theirs."""

    quarantined: Sequence[Quarantined] = ()
    held: Sequence[Held] = ()
    counters: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    unhold: Sequence[int] = ()
    letters: Sequence[Outgoing] = ()
    endings: Sequence[Ending] = ()

    @property
    def is_something(self) -> bool:
        return bool(self.quarantined or self.held or self.counters or self.unhold)


class Sorted:
    """A decoded batch. `sagas` are the ones to lock, without those that are presumed to be new and those whose records are `recalled`;
    `apply` is called for each arrival in turn."""

    def __init__(self, service: str, catalog: Catalog, limits: Limits, now_ms: int, decoded: Decoded) -> None:
        self._service = service
        self._catalog = catalog
        self._limits = limits
        self._now_ms = now_ms
        self._envelopes, self._presumed = decoded.envelopes, decoded.presumed
        self._quarantined: dict[int, Quarantined] = {}
        self._held: dict[int, Held] = {}
        self._alarms: dict[int, int] = {}
        self._letters: dict[int, list[Outgoing]] = {}
        self._endings: dict[int, Ending] = {}
        self._still_held, self._foreign, self._plain = set[int](), set[int](), set[int]()
        self._ended_by: dict[int, UUID] = {}
        self.sagas: tuple[UUID, ...] = ()
        self.recalled: list[Record] = []
        self.completed: frozenset[UUID] = frozenset()
        self.told_ends = False

    def read(self, batch: Sequence[Arrival], presuming: Presuming) -> None:
        wanted: dict[UUID, bool] = {}
        again: set[UUID] = set()
        for arrival in batch:
            envelope = self._envelopes[id(arrival)]
            if isinstance(envelope, DecodeError):
                continue
            known = self._catalog.get(envelope.definition)
            if known is not None:
                is_new = id(arrival) in self._presumed or presuming.is_new(envelope, known, arrival.delivery, self._now_ms)
                if is_new:
                    self._presumed.add(id(arrival))
                wanted[envelope.saga_id] = wanted.get(envelope.saga_id, True) and is_new
                if arrival.times > 1 or arrival.delivery is None or envelope.reannounced or envelope.kind is _OUTCOME:
                    again.add(envelope.saga_id)
        sagas: list[UUID] = []
        for saga_id, is_new in wanted.items():
            records = () if is_new or saga_id in again else presuming.recall(saga_id, self._now_ms)
            self.recalled += records
            if not is_new and not records:
                sagas.append(saga_id)
        self.sagas = tuple(sorted(sagas))

    def completions(
        self, batch: Sequence[Arrival], announced: Mapping[RecordKey, int], ended: Ended, *, single_copy: bool
    ) -> list[Completion]:
        """The ends that the batch tells to the records there may be: of sagas of which it tells nothing but their good end, unless that
        is known here already (`ended`)."""
        good: dict[UUID, tuple[Envelope, Known]] = {}
        other: set[UUID] = set()
        for arrival in batch:
            envelope = self._envelopes[id(arrival)]
            if isinstance(envelope, DecodeError):
                continue
            known = self._catalog.get(envelope.definition)
            if known is not None and arrival.delivery is not None and self._is_good_end(envelope):
                first, _ = good.setdefault(envelope.saga_id, (envelope, known))
                if _means(envelope) == _means(first):
                    continue
            other.add(envelope.saga_id)
        ends: list[Completion] = []
        done: set[UUID] = set()
        for saga_id, (envelope, known) in good.items():
            if saga_id in other:
                continue
            if ended.knows(envelope, self._now_ms):
                done.add(saga_id)
            else:
                for step in known.own:
                    key = RecordKey(saga_id, envelope.definition, step.index)
                    told, heard = announced.get(key, 0), single_copy and step.heard_at_end
                    ends.append(Completion(key, envelope.origin, envelope.deadline_ms, told, heard))
        self._has_ended(done)
        return ends

    def _is_good_end(self, envelope: Envelope) -> bool:
        is_now = started_ms(envelope.saga_id) <= self._now_ms + int(self._limits.clock_bound_s * 1000)
        return envelope.outcome is _COMPLETED and envelope.cause is _NO_CAUSE and not envelope.reason and is_now

    def note_completed(self, sagas: Collection[UUID]) -> None:
        """These have ended here by what `completions` said: nothing is left to be claimed or applied."""
        self.told_ends = True
        self._has_ended(sagas)

    def _has_ended(self, sagas: Collection[UUID]) -> None:
        if sagas:
            self.completed = self.completed.union(sagas)
            self.sagas = tuple(saga_id for saga_id in self.sagas if saga_id not in self.completed)

    def apply(self, arrival: Arrival, ws: Workspace) -> bool:
        """Apply one arrival to the workspace. Returns whether what becomes due should run in the slow lane."""
        envelope = self._envelopes[id(arrival)]
        if arrival.replay is not None:
            arrival.replay.code = arrival.replay.detail = ""  # of a try that was rolled back
        if isinstance(envelope, DecodeError):
            if self._catalog.leaves_alone(arrival.channel.name) and is_plain(arrival.channel, arrival.headers):
                self._plain.add(id(arrival))
            else:
                self._quarantine(arrival, envelope.code, str(envelope))
            return False
        if envelope.saga_id in self.completed:
            return False
        known = self._catalog.get(envelope.definition)
        if known is None:
            # A fact for others that came along on an event they share; to an origin, only another agent can know its definition.
            if self._catalog.is_foreign(envelope.definition) and envelope.origin != self._service:
                self._foreign.add(id(arrival))
            else:
                self._hold(arrival, envelope)
            return False
        if self._is_from_the_future(arrival, envelope):
            return False
        applied = ws.receive(envelope, known)
        if arrival.replay is not None:
            arrival.replay.detail = applied.alarm or (
                "applied" if applied.changed else "changed nothing: it had been applied before"
            )
        if applied.stale:
            self._answer_stale(arrival, envelope, known, applied.stale)
        if applied.wrong:
            self._quarantine(arrival, "inapplicable", applied.wrong, str(envelope.saga_id))
        elif applied.alarm:
            self._alarms[id(arrival)] = 1
            _log.error("saga %s: contradiction: %s", envelope.saga_id, applied.alarm)
        elif envelope.kind is _OUTCOME:
            self._note_ending(arrival, envelope, ws)
        elif not applied.changed and envelope.reannounced:
            self._answer(arrival, envelope, known, ws)
        if arrival.replay is not None:
            return arrival.replay.is_suspect
        return arrival.delivery is not None and arrival.delivery.attempt > self._limits.deliveries_fast

    def _note_ending(self, arrival: Arrival, envelope: Envelope, ws: Workspace) -> None:
        """Told at least once for each saga that has records here: before it is acknowledged, or taken off hold."""
        records = [record for record in ws.of_saga(envelope.saga_id) if record.definition == envelope.definition]
        if records and arrival.times <= _TOLD_MAX:
            self._endings[id(arrival)] = Ending(records[0], envelope.outcome, envelope.cause, envelope.reason)

    def told_of_hold(self, done: Sequence[Arrival], untold: frozenset[UUID]) -> list[int]:
        """Held outcomes that may go now that they have been told: the others stay on hold, to be told again."""
        return [
            arrival.held_number
            for arrival in done
            if arrival.held_number is not None
            and id(arrival) in self._endings
            and self._endings[id(arrival)].record.saga_id not in untold
        ]

    def ending_of(self, delivery: Delivery) -> UUID | None:
        """The saga whose end this delivery told."""
        return self._ended_by.get(id(delivery))

    def _is_from_the_future(self, arrival: Arrival, envelope: Envelope) -> bool:
        t0 = started_ms(envelope.saga_id)
        if t0 <= self._now_ms + int(self._limits.clock_bound_s * 1000):
            return False
        detail = f"the saga's id is of {t0} ms, now is {self._now_ms} ms; a clock is wrong by more than the bound"
        self._quarantine(arrival, "from_the_future", detail, str(envelope.saga_id))
        return True

    def _answer_stale(self, arrival: Arrival, envelope: Envelope, known: Known, steps: Sequence[int]) -> None:
        """S12: past the horizon a message makes no record. A late ABORT or CLEAR is answered as the record would have; the
        rest is quarantined."""
        message = message_of(envelope, known.plan)
        assert not isinstance(message, str), "a message that could be applied can be read"
        for step in steps:
            said = stale_answer(message, step, known.plan)
            if said is None:
                detail = "the saga started before the horizon and has no record here any more"
                self._quarantine(arrival, "stale", detail, str(envelope.saga_id))
                return
            ghost = _ghost(self._service, envelope, step)
            letters = (letter_of(one, ghost, known.plan, self._now_ms * 1_000_000) for one in said)
            self._letters.setdefault(id(arrival), []).extend(letter for letter in letters if letter is not None)

    def _quarantine(self, arrival: Arrival, code: str, detail: str, saga: str = "") -> None:
        if arrival.replay is not None:
            arrival.replay.code, arrival.replay.detail = code, detail
            return
        _log.warning("message on %s quarantined (%s): %s", arrival.channel, code, detail)
        self._quarantined[id(arrival)] = Quarantined(
            service=self._service,
            code=code,
            detail=detail,
            channel=str(arrival.channel),
            headers=arrival.headers,
            body=arrival.body,
            received_ms=self._now_ms,
            saga_id=saga,
        )
        headers = {"saga-quarantine-code": code, "saga-quarantine-service": self._service}
        copy = Outgoing(_DLQ, saga, {**harmless(arrival.headers), **headers}, arrival.body, must_route=False)
        self._letters.setdefault(id(arrival), []).append(copy)

    def _hold(self, arrival: Arrival, envelope: Envelope) -> None:
        if arrival.held_number is not None:
            self._still_held.add(id(arrival))
            return
        if arrival.replay is not None:
            arrival.replay.detail = "on hold until its definition comes"
        self._held[id(arrival)] = Held(
            service=self._service,
            definition=envelope.definition,
            channel=str(arrival.channel),
            headers=arrival.headers,
            body=arrival.body,
            received_ms=self._now_ms,
        )

    def _answer(self, arrival: Arrival, envelope: Envelope, known: Known, ws: Workspace) -> None:
        """A finished record answers a repeated announcement with the outcome, so that the sender stops repeating."""
        records = [r for r in ws.of_saga(envelope.saga_id) if r.definition == envelope.definition]
        ended = next((r for r in records if is_finished(r.row) and r.row.outcome is not Outcome.OPEN), None)
        if ended is None or not envelope.sender or envelope.sender == self._service or envelope.kind is MessageKind.OUTCOME:
            return
        message = Message(MessageKind.OUTCOME, -1, outcome=ended.row.outcome, cause=ended.row.cause)
        letter = letter_of(message, ended, known.plan, self._now_ms * 1_000_000)
        assert letter is not None
        address = Channel(ChannelKind.CONTROL, envelope.sender)
        answer = Outgoing(address, letter.key, letter.headers, letter.body, must_route=False)
        self._letters.setdefault(id(arrival), []).append(answer)

    def extras(self, done: Sequence[Arrival]) -> Extras:
        """What the arrivals that were applied add to the commit and to what is published after it."""
        ids = [id(arrival) for arrival in done]
        quarantined = [self._quarantined[i] for i in ids if i in self._quarantined]
        self._ended_by = {
            id(arrival.delivery): self._endings[id(arrival)].record.saga_id
            for arrival in done
            if arrival.delivery is not None and id(arrival) in self._endings
        }
        counted = {
            "redelivered": sum(1 for arrival in done if arrival.delivery is not None and arrival.delivery.redelivered),
            "quarantined": len(quarantined),
            "foreign": sum(1 for i in ids if i in self._foreign),
            "plain": sum(1 for i in ids if i in self._plain),
            "contradictions": sum(self._alarms.get(i, 0) for i in ids),
        }
        return Extras(
            quarantined=quarantined,
            held=[self._held[i] for i in ids if i in self._held],
            counters={(self._service, name): count for name, count in counted.items() if count},
            unhold=[
                arrival.held_number
                for arrival in done
                if arrival.held_number is not None and id(arrival) not in self._still_held and id(arrival) not in self._endings
            ],
            endings=[self._endings[i] for i in ids if i in self._endings],
            letters=[letter for i in ids for letter in self._letters.get(i, ())],
        )


def _means(end: Envelope) -> tuple[str, str, int | None]:
    """Which saga of this id (S11)."""
    return end.definition, end.origin, end.deadline_ms


def _ghost(service: str, envelope: Envelope, step: int) -> Record:
    """The record that is no more, as far as a letter needs one; it is never stored."""
    return Record(
        service=service,
        saga_id=envelope.saga_id,
        definition=envelope.definition,
        step=step,
        row=Row(),
        choreography=envelope.choreography,
        origin=envelope.origin,
        key=envelope.key,
        deadline_ms=envelope.deadline_ms,
    )


def sort_arrivals(
    service: str, catalog: Catalog, limits: Limits, batch: Sequence[Arrival], now_ms: int, presuming: Presuming, decoded: Decoded
) -> Sorted:
    """Sort a batch; nothing is touched yet."""
    sorted_ = Sorted(service, catalog, limits, now_ms, decoded)
    sorted_.read(batch, presuming)
    return sorted_
