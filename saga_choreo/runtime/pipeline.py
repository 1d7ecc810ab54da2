"""The pipeline: what an agent does with a batch of deliveries, and with a record that is due. Read this first.

Sans-I/O: generators that yield operations (`operations`) and get their answers; agent and simulator run the same code.

    receive -> decode -> load -> decide -> run step -> settle -> commit -> publish, ack

When the process dies: before Commit, nothing happened and the broker delivers again. Between Commit and Ack, the redelivery finds
the record changed and is a no-op. Between Commit and Publish, the record is unannounced, and the scan of any agent of the service
publishes it (`republish`). In the slow lane, between the two commits, the lease ends and the attempt counts as made. Nothing is
ever concluded from a commit that failed with an unknown result: the cause is not acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from saga_choreo.core.facts import Fact, OutcomeCame, Refusal, Resolved
from saga_choreo.core.rows import Duty, duty
from saga_choreo.errors import SagaError, StoreConflict, StoreUnavailable, TransactionTooLong
from saga_choreo.model.choreography import Undo
from saga_choreo.model.ids import started_ms
from saga_choreo.model.record import Record, RecordKey, Row
from saga_choreo.model.states import Outcome
from saga_choreo.ports.broker import Outgoing
from saga_choreo.runtime.arrivals import Arrival, Decoded, Sorted, sort_arrivals
from saga_choreo.runtime.catalog import Catalog, Known
from saga_choreo.runtime.claiming import admission, claim_attempt, settle_unclaimed, timeout_s
from saga_choreo.runtime.ended import Ended
from saga_choreo.runtime.operations import (
    Ack,
    Admitted,
    Begin,
    Broke,
    Claim,
    Commit,
    Complete,
    Execute,
    Executed,
    HeldBack,
    Now,
    Operation,
    Pause,
    Publish,
    Ran,
    Release,
    Rollback,
    Save,
    Tell,
)
from saga_choreo.runtime.presuming import Presuming, in_hands, verified
from saga_choreo.runtime.saying import Said, publication_of, said_again
from saga_choreo.runtime.settling import (
    deadline_passed,
    goes_fast,
    hand_back_unless_pending,
    held_up,
    hold_back,
    is_same_attempt,
    is_undo,
    note_error,
    settle,
    word_on,
)
from saga_choreo.runtime.timing import Limits, without_handler_ms
from saga_choreo.runtime.workspace import Workspace

__all__ = ["Pipeline", "Steps"]

Steps = Generator[Operation, Any, Any]
_LOCAL = (Duty.RUN, Duty.UNDO)
# A batch that meets a conflict is tried again as a whole this often, then message by message.
_CONFLICTS_MAX = 8
_TELL_AGAIN_S = 2.0  # an outcome, to a callback that failed


class Pipeline:
    """The work of one service. What it keeps of its own only spares looks into the store."""

    def __init__(
        self,
        service: str,
        catalog: Catalog,
        limits: Limits,
        announced: Mapping[RecordKey, int],
        presuming: Presuming | None = None,
        *,
        tells: bool = True,
    ) -> None:
        """`tells`: somebody here is told how each saga ended, with what its records say."""
        self.service = service
        self._tells = tells
        self.single_copy = False  # see `BrokerFeatures`
        self._catalog = catalog
        self._limits, self._announced = limits, announced
        self._presuming = presuming or Presuming(service, limits.horizon_s)
        self._ended = Ended(service, catalog)

    def handle(self, arrivals: Sequence[Arrival]) -> Steps:
        """Apply a batch of deliveries, run what becomes due, commit, publish and acknowledge. Raises what the store raises
        when trying again did not help; then nothing of the rest has been acknowledged."""
        decoded = Decoded(arrivals)
        mine = yield from in_hands(self._presuming, decoded.sagas_of(arrivals))
        try:
            yield from self._handle(arrivals, decoded, mine)
        finally:
            self._presuming.let_go(mine)

    def _handle(self, rest: Sequence[Arrival], decoded: Decoded, mine: set[UUID]) -> Steps:
        size, conflicts, slow = len(rest), 0, False
        while rest:
            try:
                done = yield from self._share(rest[:size], decoded, slow=slow and size == 1)
            except TransactionTooLong:
                # Some step blocks the transaction of all: alone each is found out, and goes on in the slow lane.
                yield Rollback()
                if slow and size == 1:
                    raise
                slow, size = size == 1, 1
                continue
            except StoreConflict:
                yield Rollback()
                conflicts += 1
                if conflicts >= _CONFLICTS_MAX:
                    raise
                size = 1 if conflicts > 1 else size
                now_ns, chance = yield Now()
                self._presuming.was_wrong(now_ns // 1_000_000)
                decoded.presumed.clear()
                yield Pause(0.01 * conflicts * (0.5 + chance))
                continue
            decoded.are_done(decoded.sagas_of(rest[:done]))
            size = size if done == size else 2 * done  # what gets no turn is claimed again
            rest, slow = rest[done:], False
            self._presuming.let_go(mine, but=decoded.sagas_of(rest))

    def _share(self, batch: Sequence[Arrival], decoded: Decoded, *, slow: bool) -> Generator[Operation, Any, int]:
        """One transaction for as many of these as fit the budget (at least one). Returns how many were done."""
        ws, began_ns = yield from self._workspace()
        sorted_ = sort_arrivals(self.service, self._catalog, self._limits, batch, ws.now_ms, self._presuming, decoded)
        yield Begin()
        ends = [] if self._tells else sorted_.completions(batch, self._announced, self._ended, single_copy=self.single_copy)
        if ends:
            sorted_.note_completed((yield Complete(ends, ws.now_ms)))
        if sorted_.sagas:
            ws.load((yield Claim(sorted_.sagas)))
        ws.load(sorted_.recalled)
        done = 0
        for arrival in batch:
            suspect = sorted_.apply(arrival, ws)
            yield from self._run_duties(ws, slow=slow or suspect)
            done += 1
            now_ns, _ = yield Now()
            if now_ns - began_ns > self._limits.fast_budget_s * 1e9:
                break
        yield from verified(self._presuming, sorted_.recalled, decoded.sagas_of(batch[:done]), ws)
        yield from self._finish(ws, sorted_, batch[:done])
        return done

    def _workspace(self) -> Generator[Operation, Any, tuple[Workspace, int]]:
        now_ns, chance = yield Now()
        return Workspace(self.service, self._catalog, self._limits, now_ns // 1_000_000, chance, self._announced), now_ns

    def _claimed(self, saga_id: UUID, *, begins: bool = True) -> Generator[Operation, Any, Workspace]:
        ws, _ = yield from self._workspace()
        self._presuming.drop((saga_id,))
        if begins:
            yield Begin()
        ws.load((yield Claim((saga_id,))))
        return ws

    def _finish(self, ws: Workspace, sorted_: Sorted, done: Sequence[Arrival]) -> Generator[Operation, Any, None]:
        records = ws.changed()
        extras = sorted_.extras(done)
        if records or sorted_.told_ends or extras.is_something:
            yield Save(records, extras.quarantined, extras.held, extras.counters, extras.unhold, ws.freed())
            yield Commit()
            self._presuming.saw(records, ended=sorted_.completed)
            self._ended.saw(records, ws.now_ms)
        else:
            yield Rollback()
        self._presuming.keep(ws.whole(records), ws.now_ms)
        untold: frozenset[UUID] = (yield Tell(extras.endings)) if extras.endings else frozenset()
        if told := sorted_.told_of_hold(done, untold):
            yield Begin()
            yield Save((), unhold=told)
            yield Commit()
        deliveries = [arrival.delivery for arrival in done if arrival.delivery is not None]
        acked = [d for d in deliveries if not untold or sorted_.ending_of(d) not in untold]
        if acked:
            yield Ack(acked)
        if len(acked) < len(deliveries):
            yield Release([d for d in deliveries if d not in acked], _TELL_AGAIN_S)
        yield from self._announce(ws.said(records), extras.letters)

    def _announce(self, said: Sequence[Said], loose: Sequence[Outgoing] = ()) -> Generator[Operation, Any, None]:
        if not said and not loose:
            return
        now_ns, _ = yield Now()
        yield Publish([publication_of(one, self._catalog, now_ns) for one in said], loose)

    def _run_duties(self, ws: Workspace, *, slow: bool) -> Generator[Operation, Any, None]:
        """The fast lane: local steps that became due in this transaction. Everything else is left due for the slow lane."""
        while (found := ws.next_duty()) is not None:
            record, _, known, what = found
            if what not in _LOCAL or not known.can(record.step, what):
                continue
            key = record.record_key
            if slow or known.options(record.step).own_transaction:
                ws.touch(key, error="delivered too often for the fast lane" if slow else "runs in a transaction of its own")
                continue
            yield from self._run_inside(ws, key, known, what)

    def _run_inside(
        self, ws: Workspace, key: RecordKey, known: Known, what: Duty, *, waited: bool = False
    ) -> Generator[Operation, Any, None]:
        record = ws.get(key)
        assert record is not None
        answer: Admitted | Executed = yield from admission(record, known, what, waited=waited)
        if isinstance(answer, Admitted):
            budget_s = min(self._limits.fast_budget_s, timeout_s(known, key.step, self._limits))
            answer = yield Execute(record, what, True, budget_s)
            assert not isinstance(answer, Admitted)
        _, chance = yield Now()
        settle(ws, key, known, what, answer, chance)

    def work(self, key: RecordKey) -> Generator[Operation, Any, bool]:
        """A record that is due: its deadline, its next attempt, or its next repeated announcement (then True)."""
        ws = yield from self._claimed(key.saga_id)
        record, known = ws.get(key), self._catalog.get(key.definition)
        if record is None or known is None or record.due_ms is None or record.due_ms > ws.now_ms:
            yield Rollback()
            return False
        try:
            attempt, loose = yield from self._wake(ws, record, known)
            records = ws.changed()
            yield Save(records, unlock=ws.freed())
            yield Commit()
        except TransactionTooLong as error:
            yield Rollback()
            yield from self._amend(key, partial(note_error, error=str(error)))
            return False
        yield from self._announce(ws.said(records), loose)
        if attempt is not None:
            yield from self._attempt(next(saved for saved in records if saved.record_key == key), known, attempt)
        return bool(loose)

    def _amend(self, key: RecordKey, change: Callable[[Workspace, Record, Known], object]) -> Generator[Operation, Any, None]:
        """Change something beside what is decided, unless nothing is to be changed (then False)."""
        ws = yield from self._claimed(key.saga_id)
        record, known = ws.get(key), self._catalog.get(key.definition)
        if record is None or known is None or change(ws, record, known) is False:
            yield Rollback()
        else:
            yield Save(ws.changed())
            yield Commit()

    def _wake(self, ws: Workspace, record: Record, known: Known) -> Generator[Operation, Any, tuple[Duty | None, list[Outgoing]]]:
        """What is due of this record. Returns the duty of a slow attempt that was claimed, and loose letters to send."""
        key, step = record.record_key, known.plan.step(record.step)
        if deadline_passed(ws, record, known):
            yield from self._run_duties(ws, slow=held_up(record))  # noted when it blocked the transaction before
            return None, []
        what = duty(record.row, step)
        if what is None:
            return None, (yield from self._nudge(ws, record, known))
        if not known.can(record.step, what):
            ws.touch(key, error="no handler for this step in this agent")
            ws.retry_at(key, ws.now_ms + without_handler_ms(ws.now_ms - started_ms(key.saga_id)))
            return None, []
        if what in _LOCAL and goes_fast(record) and not known.options(record.step).own_transaction:
            yield from self._run_inside(ws, key, known, what, waited=True)
            yield from self._run_duties(ws, slow=False)
            return None, []
        attempt = yield from self._begin_attempt(ws, record, known, what)
        return attempt, []

    def _nudge(self, ws: Workspace, record: Record, known: Known) -> Generator[Operation, Any, list[Outgoing]]:
        """Say everything again, flagged: repairs whatever the broker lost."""
        ended = next((one for one in ws.of_saga(record.saga_id) if one.row.outcome is not Outcome.OPEN), None)
        if ended is not None and ended.definition == record.definition:
            # Another step here has heard the end, and whoever reads this one's words may be this very service: nobody else will say.
            ws.act(record.record_key, OutcomeCame(ended.row.outcome, ended.row.cause), known)
            return []
        ws.touch(record.record_key, nudges=record.nudges + 1)
        return said_again(record, known.plan, (yield Now())[0])

    def _begin_attempt(self, ws: Workspace, record: Record, known: Known, what: Duty) -> Generator[Operation, Any, Duty | None]:
        """Claim an attempt, unless it was the last that died or something holds it back."""
        key = record.record_key
        if settle_unclaimed(ws, record, known, what):
            yield from self._run_duties(ws, slow=held_up(record))
            return None
        answer = yield from admission(record, known, what, waited=True)
        if isinstance(answer, Admitted):
            return claim_attempt(ws, record, known, what, answer.lock, self._limits)
        if isinstance(answer, HeldBack):
            hold_back(ws, key, known, answer)
        else:
            settle(ws, key, known, what, answer, (yield Now())[1])
        yield from self._run_duties(ws, slow=held_up(record))
        return None

    def _attempt(self, claimed: Record, known: Known, what: Duty) -> Generator[Operation, Any, None]:
        """Run without holding the record, then settle only if the attempt is still the one that counts. A conflict or a
        lost connection is no failure of the step: a local step runs again, a known answer from outside is settled again."""
        step, budget_s = known.plan.step(claimed.step), timeout_s(known, claimed.step, self._limits)
        outside = step.undo is Undo.EXTERNAL if is_undo(what) else step.external
        answer: Executed | None = None
        for tried in range(_CONFLICTS_MAX):
            try:
                if outside and answer is None:
                    answer = yield Execute(claimed, what, False, budget_s)
                yield from self._settle_attempt(claimed, known, what, answer, budget_s)
            except (StoreConflict, StoreUnavailable):
                yield Rollback()
                if tried == _CONFLICTS_MAX - 1:
                    raise
                _, chance = yield Now()
                yield Pause(0.05 * (1 << tried) * (0.5 + chance))
            except SagaError as error:
                yield Rollback()
                if answer is not None:
                    raise
                # The store would not have what the handler did (it held the only writer for too long, say): the step failed.
                answer = Broke(f"{type(error).__name__}: {error}")
            else:
                return

    def _settle_attempt(
        self, claimed: Record, known: Known, what: Duty, answer: Executed | None, budget_s: float
    ) -> Generator[Operation, Any, None]:
        key = claimed.record_key
        yield Begin()
        if answer is None:
            answer = yield Execute(claimed, what, True, budget_s)
            assert answer is not None
            if not isinstance(answer, Ran):  # nothing of the handler's is to be kept, its transaction neither
                yield Rollback()
                yield Begin()
        ws = yield from self._claimed(key.saga_id, begins=False)
        record = ws.get(key)
        if record is None or not is_same_attempt(record, claimed) or duty(record.row, known.plan.step(key.step)) is not what:
            yield Rollback()  # aborted meanwhile, or taken over: what the handler wrote is undone
            return
        _, chance = yield Now()
        settle(ws, key, known, what, answer, chance)  # what becomes due by this is the timers', not this attempt's
        yield from self._keep(ws)

    def _keep(self, ws: Workspace) -> Generator[Operation, Any, None]:
        records = ws.changed()
        yield Save(records, unlock=ws.freed())
        yield Commit()
        yield from self._announce(ws.said(records))

    def command(
        self,
        saga_id: UUID,
        step: int | None,
        fact: Fact,
        reason: str = "",
        *,
        definition: str = "",
        runs: bool = True,
        **changes: Any,
    ) -> Generator[Operation, Any, Row | Refusal | None]:
        """A person's or a program's word on one record: `step`, or whatever record of the saga is here, the origin's first. `changes` are
        the record's other fields; without `runs`, what becomes due is left to the agents, as is what holds up the transaction."""
        ws = yield from self._claimed(saga_id)
        found = sorted(ws.of_saga(saga_id), key=lambda record: record.step)
        record = next((one for one in found if step in (None, one.step) and definition in ("", one.definition)), None)
        known = None if record is None else self._catalog.get(record.definition)
        if record is None or known is None:
            yield Rollback()
            return None
        if isinstance(fact, Resolved):
            changes |= word_on(record, fact, reason, ws.now_ms)
        elif reason and not record.reason:
            changes["reason"] = reason
        answer = ws.act(record.record_key, fact, known, **changes)
        if not isinstance(answer, Row):
            yield Rollback()
            return answer if answer is not None else record.row
        try:
            if runs:
                yield from self._run_duties(ws, slow=False)
            yield from self._keep(ws)
        except TransactionTooLong:
            if not runs:
                raise
            yield Rollback()  # the word stands; what follows from it and takes too long is the timers'
            changes["reason"] = reason
            return (yield from self.command(saga_id, step, fact, definition=definition, runs=False, **changes))
        return answer

    def give_back(self, key: RecordKey) -> Generator[Operation, Any, None]:
        """An attempt that was cancelled because the agent stops: it does not count, and another may begin at once."""
        return self._amend(key, hand_back_unless_pending)
