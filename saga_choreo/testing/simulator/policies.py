"""Whether retry policies are kept: so many attempts and no more, the waits between them, and what comes after the last one.

Counted from what ran and from what was committed, and compared with the options the steps were given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from saga_choreo.core.graph import StepPlan
from saga_choreo.model.record import ORIGIN, Record, RecordKey, Row
from saga_choreo.model.retry import Backoff, OnExhausted, Retry
from saga_choreo.model.states import Cause, Parked, State
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.testing.simulator.errors import policy_for
from saga_choreo.testing.simulator.ledger import Ledger
from saga_choreo.testing.simulator.streams import Stream
from saga_choreo.testing.simulator.world import World

__all__ = ["Policies"]

# Times are kept in milliseconds.
_ALMOST_S = 0.005
# Clocks differ by two seconds.
_SKEW_MS = 2100
# What some policies are for, from the general to the special.
_CLASSES: tuple[type[Exception], ...] = (Exception, OSError, ConnectionError, TimeoutError, ValueError)
_UNDOES = frozenset({State.DONE, State.COMPENSATING})
_TRIES = frozenset({State.WAITING, State.RUNNING, State.COMPENSATING})
# Each may cost an attempt without a run: the commit that claims it is the last that the process does, or knows of.
_COSTLY = frozenset({"crash", "commit_unknown"})


class _Round(NamedTuple):
    """Attempts between two words of people."""

    key: RecordKey
    is_undo: bool
    words: int


@dataclass(frozen=True, slots=True)
class _Wait:
    round: _Round
    until_ms: float
    delay_s: float


class Policies:
    """Of all steps. `counts_runs`: every run is told of (`runs`)."""

    def __init__(self, world: World, *, counts_runs: bool) -> None:
        self._world = world
        self._counts_runs = counts_runs
        self._stream = world.streams.named("policies")
        self.options: dict[tuple[str, int], StepOptions] = {}
        self._runs: Counter[_Round] = Counter()
        self._waits: dict[RecordKey, _Wait] = {}
        # When the first attempt of a round began.
        self._first_ms: dict[_Round, int] = {}
        # Of these something has said no, or that no later attempt can do better.
        self._refused: set[RecordKey] = set()
        self._final: set[RecordKey] = set()
        # The key of the last call of each step that may not be repeated.
        self._called: dict[RecordKey, str] = {}

    def of(self, definition: str, step: StepPlan, options: StepOptions) -> StepOptions:
        """The step's options, with more drawn, and remembered."""
        is_unsafe = self._stream.chance(0.15) and step.external
        retry, undo_retry = _drawn(options.retry, self._stream), _drawn(options.undo_retry, self._stream)
        drawn = replace(options, unsafe_external=is_unsafe, retry=retry, undo_retry=undo_retry)
        if self._stream.chance(0.15) and drawn.deadline_s is None and not step.external and (step.may_veto or step.optional):
            drawn = replace(drawn, deadline_s=self._stream.between(1, 15))  # then it refuses, or is skipped
        self.options[definition, step.index] = drawn
        return drawn

    def runs(self, record: Record, *, is_undo: bool) -> None:
        words = 0 if record.resolution is None else record.resolution.number
        self._runs[_Round(record.record_key, is_undo, words)] += 1

    def runs_fast(self, record: Record, *, is_suspect: bool) -> None:
        """In a transaction that it shares with others, and not counted before it runs."""
        options = self.options[record.definition, record.step]
        if is_suspect or options.own_transaction:
            why = "its message may have killed agents before" if is_suspect else "it is to have a transaction of its own"
            self._world.broken("L7", f"step {record.step} of saga {record.key} runs in the fast lane, though {why}")

    def calls(self, key: RecordKey, idempotency_key: str) -> None:
        """A step calls out. Of one whose provider knows no keys, only a person may say that it is done again."""
        options = self.options.get((key.definition, key.step))
        if options is not None and options.unsafe_external:
            if self._called.get(key) == idempotency_key:
                self._world.broken(
                    "S1", f"step {key.step} of saga {str(key.saga_id)!r} calls again, and its call may not be repeated"
                )
            self._called[key] = idempotency_key

    def is_unsafe(self, key: RecordKey) -> bool:
        return self.options[key.definition, key.step].unsafe_external

    def may_repeat(self, key: RecordKey) -> None:
        """A person says so."""
        self._called.pop(key, None)

    def refused(self, key: RecordKey) -> None:
        """The step, what it calls or a person has said no."""
        self._refused.add(key)

    def is_told(self, key: RecordKey, *, refused: bool) -> None:
        """No later attempt of the step can do better: it said no, or failed for good."""
        (self._refused if refused else self._final).add(key)

    def committed(self, ledger: Ledger, old: Record | None, new: Record) -> None:
        options = self.options.get((new.definition, new.step))
        if new.step == ORIGIN or options is None:
            return
        row, before = new.row, Row() if old is None else old.row
        is_undo = State.COMPENSATING in (row.state, before.state)
        retry = options.undo_retry if is_undo else options.retry
        round_ = _Round(new.record_key, is_undo, ledger.words.get(new.step, 0))
        attempts = [policy.attempts for policy in (retry, *retry.on.values())]
        if row.state in _TRIES and row.attempt > max(one or row.attempt for one in attempts):
            self._broken(ledger, new, f"makes attempt {row.attempt}, its policy allows {attempts}")
        begins = row.abort and row.state in _UNDOES and row.clear_in == ledger.plan.steps[new.step].all_succ
        if begins and row.key_no and before.state is not State.COMPENSATING:
            self._broken(ledger, new, f"begins its undo under key number {row.key_no}, and nothing has refused that yet")
        # An attempt whose lease is over may have died: then of no error, and all policies of the step have a say.
        may_have_died = old is not None and old.lease_ms is not None and old.lease_ms < new.changed_ms + _SKEW_MS
        policies = (policy_for(retry, new.error), *((retry,) if may_have_died else ()))
        if row.parked in (Parked.PARKED, Parked.PASSED) and before.parked is Parked.NO:
            self._parked(ledger, new, options, policies)
            if row.state is not State.RUNNING or not options.unsafe_external:
                self._gave_up(ledger, new, retry, round_, may_have_died=may_have_died)
        elif before.parked is Parked.NO and row.state in (State.TOMB, State.SKIPPED) and before.state in _TRIES:
            self._ended(ledger, before, new, policies, options)
        if before.parked in (Parked.PARKED, Parked.PASSED) and row.parked is Parked.NO:  # a person's word: all its time again
            self._first_ms[round_] = new.changed_ms
        if row.attempt and not before.attempt:
            self._first_ms.setdefault(round_, new.changed_ms)
        if old is not None:
            self._waited(ledger, old, new, policy_for(retry, new.error), round_)

    def _broken(self, ledger: Ledger, record: Record, text: str) -> None:
        self._world.broken("L4", f"{ledger.name(record.step)} {text}", ledger.number)

    def _parked(self, ledger: Ledger, record: Record, options: StepOptions, policies: Sequence[Retry]) -> None:
        row, step = record.row, ledger.plan.steps[record.step]
        if row.state is State.COMPENSATING and (row.parked is Parked.PASSED) is not options.on_park_continue:
            self._broken(
                ledger, record, f"is {row.parked.value!r} after its last undo, on_park_continue={options.on_park_continue}"
            )
        may_end = step.may_veto or step.optional
        if row.state is State.WAITING and may_end and all(one.on_exhausted is OnExhausted.VETO for one in policies):
            self._broken(ledger, record, f"waits for a person, though its policy is to refuse ({record.error})")

    def _gave_up(self, ledger: Ledger, record: Record, retry: Retry, round_: _Round, *, may_have_died: bool) -> None:
        if record.record_key in self._final:
            return
        attempt, took_s = record.row.attempt, (record.changed_ms - self._first_ms.get(round_, record.changed_ms)) / 1000

        def is_over(policy: Retry) -> bool:
            by_time = policy.max_time_s is not None and took_s >= policy.max_time_s - _ALMOST_S
            return by_time or (policy.attempts is not None and attempt >= policy.attempts)

        policy = policy_for(retry, record.error)
        if not is_over(policy) and not (may_have_died and all(map(is_over, (retry, *retry.on.values())))):
            self._broken(ledger, record, f"gave up after attempt {attempt} and {took_s:.3f} s for {record.error!r}, by {policy}")
        wanted = policy.attempts if is_over(policy) else attempt
        if wanted is None:
            return
        world = self._world
        lost = sum(name in _COSTLY for (name, _), _ in world.faults.happened) + (world.settings.crash_at is not None)
        if self._counts_runs and self._runs[round_] + lost < wanted:
            self._broken(ledger, record, f"gave up after {self._runs[round_]} runs, its policy has {wanted}")

    def _ended(self, ledger: Ledger, before: Row, record: Record, policies: Sequence[Retry], options: StepOptions) -> None:
        """It has refused, or was skipped by itself, without anybody's no: then it gave up, as its policy says."""
        row = record.row
        by_itself = row.vetoer and row.cause is Cause.REFUSED
        if row.state is State.SKIPPED:
            by_itself = (row.done_in, row.skip_in) == (before.done_in, before.skip_in) and not row.abort
        if not by_itself or record.record_key in self._refused or options.lock is not None or options.deadline_s is not None:
            return
        if all(one.on_exhausted is OnExhausted.PARK for one in policies) or row.parked is not Parked.NO:
            self._broken(ledger, record, "gave up and refused, though its policy is to wait for a person")

    def _waited(self, ledger: Ledger, old: Record, new: Record, retry: Retry, round_: _Round) -> None:
        before, row = old.row, new.row
        fails = new.lease_ms is None and new.error and row.parked is Parked.NO and row.state is before.state
        settled = row.attempt == before.attempt and old.lease_ms is not None and not row.pending
        fails = fails and (settled or row.attempt == before.attempt + 1)
        if fails and retry.max_time_s is not None:
            took_s = (new.changed_ms - self._first_ms.get(round_, new.changed_ms)) / 1000
            if took_s > retry.max_time_s + _ALMOST_S:
                self._broken(ledger, new, f"goes on after {took_s:.3f} s, its policy has {retry.max_time_s:g} s")
        if fails and retry.attempts is not None and row.attempt >= retry.attempts:
            self._broken(ledger, new, f"goes on after attempt {row.attempt} and {new.error!r}, its policy has {retry.attempts}")
        if fails and retry.backoff is Backoff.FIXED:
            self._waits[new.record_key] = _Wait(round_, new.changed_ms + 1000 * retry.delay_s, retry.delay_s)
            return
        wait = self._waits.get(new.record_key)
        if wait is None or new.lease_ms is None or row.attempt <= before.attempt or row.state is not before.state:
            return
        del self._waits[new.record_key]
        early_s = (wait.until_ms - new.changed_ms) / 1000
        if wait.round == round_ and early_s > _ALMOST_S:
            self._broken(ledger, new, f"was tried again {early_s:.3f} s too early, its policy waits {wait.delay_s:g} s")


def _drawn(retry: Retry, stream: Stream) -> Retry:
    """Some go by time, and some wait for the same time again and again, which can be seen; some have policies for classes of errors."""
    kind, delay_s, max_time_s = stream.random(), stream.between(3, 8), stream.between(2, 10)
    on = {stream.pick(_CLASSES): _special(stream) for _ in range(1 + stream.below(2))} if stream.chance(0.3) else {}
    if kind < 0.2:
        return replace(retry, attempts=None, max_time_s=max_time_s, on=on)
    return replace(retry, backoff=Backoff.FIXED, delay_s=delay_s, on=on) if kind < 0.5 else replace(retry, on=on)


def _special(stream: Stream) -> Retry:
    attempts, delay_s, end = 1 + stream.below(6), stream.between(3, 8), stream.pick(tuple(OnExhausted))
    backoff = Backoff.FIXED if stream.chance(0.5) else Backoff.EXPONENTIAL
    return Retry(attempts=attempts, backoff=backoff, delay_s=delay_s, delay_max_s=8.0, on_exhausted=end)
