"""People: operators who resolve parked steps, callers who cancel, and whoever completes a step that went pending.

They look at the store, think for a while, and say one word to some process of the service; when it dies or refuses, they look
again. Before anybody says that a call to the outside failed, the key is voided at the provider, as the protocol asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from saga_choreo.core.facts import CancelRequested, Completed, CompletionDeclined, Fact, Refusal, Resolved
from saga_choreo.core.graph import Plan, StepPlan
from saga_choreo.errors import SagaError
from saga_choreo.model.choreography import Undo
from saga_choreo.model.record import ORIGIN, Record, RecordKey, Row
from saga_choreo.model.states import Outcome, Parked, State
from saga_choreo.testing.simulator.effects import Effect
from saga_choreo.testing.simulator.external import Provider
from saga_choreo.testing.simulator.handlers import choice_of
from saga_choreo.testing.simulator.policies import Policies
from saga_choreo.testing.simulator.words import wrong_words
from saga_choreo.testing.simulator.world import SECOND, World

__all__ = ["People", "Place", "Shelf"]

_OPERATOR = "ana"
_SOMEBODY_ELSE = "ben"
_TRIED = frozenset({State.WAITING, State.RUNNING, State.COMPENSATING})
# A word, and what was done by hand before it was said.
Word = tuple[Fact, tuple[Effect, ...]]


class Shelf(Protocol):
    """A service's store, as people look at it."""

    @property
    def records(self) -> Mapping[UUID, Mapping[RecordKey, Record]]: ...

    def get(self, key: RecordKey) -> Record | None: ...


class Place(Protocol):
    """A process of a service, as people talk to it. `ended` is called with whatever ran, its answer and its error."""

    @property
    def is_up(self) -> bool: ...
    @property
    def store(self) -> Shelf: ...

    def command(
        self,
        key: RecordKey,
        step: int | None,
        fact: Fact,
        ended: Callable[[Any, Any, SagaError | None], None],
        effects: Sequence[Effect],
    ) -> None: ...


class People:
    """All the people around one world."""

    def __init__(
        self,
        world: World,
        processes: Mapping[str, Sequence[Place]],
        plans: Mapping[str, Plan],
        provider: Provider,
        policies: Policies,
    ) -> None:
        self._world = world
        self._processes = processes
        self._plans = plans
        self._provider = provider
        self._policies = policies
        self._stream = world.streams.named("people")
        self._mistakes = world.streams.named("people/mistakes")
        # The step that somebody has an eye on, and its service.
        self._watched: dict[RecordKey, str] = {}

    def _say(self, service: str, key: RecordKey, step: int | None, word: Word) -> bool:
        up = [process for process in self._processes[service] if process.is_up]
        if up:
            if isinstance(word[0], Resolved):
                self._world.said.setdefault(key, []).append(word[0])
            self._stream.pick(up).command(key, step, word[0], self._heard(service, key, word[0]), word[1])
        return bool(up)

    def _heard(self, service: str, key: RecordKey, word: Fact) -> Callable[[Any, Any, SagaError | None], None]:
        """What can be said is not refused, unless the record has changed meanwhile."""
        record = self._processes[service][0].store.get(key)
        version = 0 if record is None else record.version

        def heard(run: Any, value: Any, error: SagaError | None) -> None:
            del run, error
            if not isinstance(value, Refusal):
                return
            self._world.note("people", value.reason)
            now = self._processes[service][0].store.get(key)
            if isinstance(word, Resolved) and now is not None and now.version == version:
                self._world.broken("L4", f"{word.verb!r} on step {key.step} of saga {now.key} was refused: {value.reason}")

        return heard

    def _mistake(self, service: str, record: Record, words: Sequence[str]) -> None:
        """Somebody says what cannot be said of such a step; whether it counts is seen in the record."""
        up = [process for process in self._processes[service] if process.is_up]
        if up:
            self._world.saw("a word that is not possible")
            word = Resolved(self._mistakes.pick(words), _OPERATOR)
            self._world.said.setdefault(record.record_key, []).append(word)
            self._mistakes.pick(up).command(record.record_key, record.step, word, self._no_matter, ())

    def _no_matter(self, run: Any, value: Any, error: SagaError | None) -> None:
        del run, value, error

    def _must_not_count(self, run: Any, value: Any, error: SagaError | None) -> None:
        del run, error
        if isinstance(value, Row):
            self._world.broken("S1", "an answer to a call that had been declined counted as one to the call made since")

    def notice(self, record: Record) -> None:
        """A record was committed: somebody may have to do something about it."""
        key = record.record_key
        if key not in self._watched and (record.row.parked is not Parked.NO or record.row.pending):
            self._watched[key] = record.service
            self._think(record.service, key)
        elif self._is_hurried(record) and self._mistakes.chance(0.05):
            self._world.after(int(self._mistakes.between(0, 2) * SECOND), self._mistake, record.service, record, ("retry",))

    def _is_hurried(self, record: Record) -> bool:
        """Somebody may be too quick for it: it is not parked. Where a call may not be repeated the word would do harm if it is by then."""
        row = record.row
        is_tried = bool(row.attempt) and row.parked is Parked.NO and row.state in _TRIED
        return is_tried and not self._policies.is_unsafe(record.record_key)

    @property
    def is_awaited(self) -> bool:
        """Some step waits for a word that somebody is about to say: not all is over yet, even where its saga is."""
        rows = (self._processes[service][0].store.get(key) for key, service in self._watched.items())
        return any(record is not None and (record.row.parked is not Parked.NO or record.row.pending) for record in rows)

    def _think(self, service: str, key: RecordKey) -> None:
        self._world.after(int(self._stream.between(0.5, 12) * SECOND), self._look, service, key)

    def _look(self, service: str, key: RecordKey) -> None:
        record = self._processes[service][0].store.get(key)
        assert record is not None
        if record.row.parked is Parked.NO and not record.row.pending:
            self._watched.pop(key, None)
            return
        step = self._plans[key.definition].steps[key.step]
        if record.row.pending and step.deadline_choice and self._stream.chance(0.3):
            self._watched.pop(key, None)
            self._world.saw("nobody completed a pending step")
            return
        if record.row.pending and record.row.key_no and self._stream.chance(0.3):
            self._world.saw("answered to an earlier call")
            up = [process for process in self._processes[service] if process.is_up]
            if up:
                self._stream.pick(up).command(key, key.step, Completed(record.row.key_no - 1, 1), self._must_not_count, ())
            self._think(service, key)
            return
        if record.row.parked is Parked.HUMAN and self._stream.chance(0.3):
            self._meddle(service, key, step)
        if record.row.parked is not Parked.NO and self._mistakes.chance(0.6 if record.row.parked is Parked.HUMAN else 0.3):
            self._mistake(service, record, wrong_words(record.row))
        word = self._completion(record, step) if record.row.pending else self._resolution(record, step)
        if self._say(service, key, key.step, word):
            self._world.note("people", f"say {word[0]!r} to step {key.step}")
        self._think(service, key)

    def _meddle(self, service: str, key: RecordKey, step: StepPlan) -> None:
        """Somebody else wants to finish what a person has taken over."""
        up = [process for process in self._processes[service] if process.is_up]
        if up:
            self._world.saw("somebody else wanted to finish a taken step")
            word = Resolved("done", _SOMEBODY_ELSE, choice_of(step, self._stream))
            self._stream.pick(up).command(key, key.step, word, self._must_not_finish, ())

    def _must_not_finish(self, run: Any, value: Any, error: SagaError | None) -> None:
        del run, error
        if isinstance(value, Row):
            self._world.broken("S3", "a step in one person's hands was finished by another")

    def _completion(self, record: Record, step: StepPlan) -> Word:
        """What the provider says of an order it took."""
        reply = self._provider.known((record.saga_id, record.step, False))
        assert reply is not None, "a step went pending without a call"
        if reply.is_declined or (not self._world.faults.is_healed and step.may_veto and self._stream.chance(0.15)):
            reply.is_declined = True
            self._policies.refused(record.record_key)
            return CompletionDeclined(record.row.key_no), ()
        self._world.saw("pending step completed")
        return Completed(record.row.key_no, reply.choice), ()

    def _resolution(self, record: Record, step: StepPlan) -> Word:
        row = record.row
        if row.parked is Parked.HUMAN:
            return self._of_taken(record, step)
        if self._world.faults.is_healed or self._stream.chance(0.4):
            self._policies.may_repeat(record.record_key)
            return Resolved("retry", _OPERATOR), ()
        match row.state:
            case State.WAITING:
                return Resolved("waive" if self._stream.chance(0.4) else "take", _OPERATOR), ()
            case State.RUNNING:
                return self._of_call(record, step)
            case _:
                return self._of_undo(record, step)

    def _of_taken(self, record: Record, step: StepPlan) -> Word:
        if self._stream.chance(0.3):
            return Resolved("give_back", _OPERATOR), ()
        done = Effect(record.saga_id, record.step, is_undo=False, by="person")
        return Resolved("done", _OPERATOR, choice_of(step, self._stream)), (done,)

    def _of_call(self, record: Record, step: StepPlan) -> Word:
        place = (record.saga_id, record.step, False)
        self._provider.void(place)
        reply = self._provider.known(place)
        if reply is not None and reply.is_done:
            return Resolved("done", _OPERATOR, reply.choice), ()
        if record.row.abort or step.may_veto or step.optional:
            self._policies.refused(record.record_key)
            return Resolved("fail", _OPERATOR), ()
        self._policies.may_repeat(record.record_key)
        return Resolved("retry", _OPERATOR), ()

    def _of_undo(self, record: Record, step: StepPlan) -> Word:
        place = (record.saga_id, record.step, True)
        if step.undo is Undo.EXTERNAL:
            self._provider.void(place)
        reply = self._provider.known(place)
        if reply is not None and reply.is_done:
            return Resolved("done", _OPERATOR), ()
        if self._stream.chance(0.5):
            self._world.saw("undo waived")
            return Resolved("waive", _OPERATOR), ()
        return Resolved("done", _OPERATOR), (Effect(record.saga_id, record.step, is_undo=True, by="person"),)

    def cancel_later(self, origin: str, first: Record) -> None:
        """Somebody may want this saga undone, at any moment; at the origin, or wherever it is known."""
        when = self._world.hit("cancel")
        if when is not None:
            self._world.after(int(when * when * 40 * SECOND), self._cancel, origin, first)

    def _cancel(self, origin: str, first: Record) -> None:
        key = first.record_key
        service = origin if self._stream.chance(0.6) else self._stream.pick(sorted(self._processes))
        rows = self._processes[service][0].store.records.get(key.saga_id)
        if not rows:
            return
        record = rows[min(rows, key=lambda one: one.step)]
        if record.step == ORIGIN and record.row.outcome is not Outcome.OPEN:
            self._world.saw("cancel too late")
        else:
            self._world.cancelled.add(key.saga_id)
            self._world.saw("cancelled" if record.step == ORIGIN else "cancel asked at a participant")
        self._say(service, record.record_key, record.step, (CancelRequested(), ()))
