"""What a participant's code does when the pipeline has it executed: works, refuses, breaks, or takes too long."""

from __future__ import annotations

from collections.abc import Callable

from saga_choreo.core.graph import StepPlan
from saga_choreo.core.rows import Duty
from saga_choreo.model.choreography import Split
from saga_choreo.model.record import Record
from saga_choreo.runtime.attempt import Attempt
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.declare.results import Handled
from saga_choreo.runtime.operations import Broke, Execute, Executed, Overran, Ran, Rejected
from saga_choreo.testing.simulator.carried import KEPT, UNDONE, payload_of, results_of
from saga_choreo.testing.simulator.effects import Effect
from saga_choreo.testing.simulator.errors import ERRORS
from saga_choreo.testing.simulator.external import Provider, Reply
from saga_choreo.testing.simulator.store import SimulatedTransaction
from saga_choreo.testing.simulator.streams import Stream
from saga_choreo.testing.simulator.world import SECOND, World

__all__ = ["Handlers", "choice_of"]

_UNDO = (Duty.UNDO, Duty.CALL_UNDO)
Answer = Callable[[Executed], None]


def choice_of(step: StepPlan, stream: Stream) -> int:
    """A random answer of the step, as a mask of its events."""
    count = step.all_outputs.bit_length()
    match step.split:
        case Split.ONE:
            return 1 << stream.below(count)
        case Split.SOME:
            return stream.below(step.all_outputs) + 1
        case Split.ALL:
            return step.all_outputs


def _ran(record: Record, choice: int, *, pending: bool = False) -> Ran:
    results = {} if pending else results_of(record.key, record.step, choice)
    return Ran(Handled(results, 0 if pending else choice, pending), kept=payload_of(record.key, record.step, KEPT))


async def _no_heartbeat(record: Record) -> None:
    del record


class Handlers:
    """The handlers of all services. A local effect joins the transaction it is made in; an external one is the provider's."""

    def __init__(self, world: World, provider: Provider, completion: Callable[[Record], None]) -> None:
        """`completion` is told of a step that went pending: somebody has to complete it."""
        self._world = world
        self._provider = provider
        self._completion = completion
        self._stream = world.streams.named("handlers")
        self._errors = world.streams.named("errors")

    def run(self, operation: Execute, known: Known, transaction: SimulatedTransaction | None, answer: Answer) -> None:
        if operation.inside:
            assert transaction is not None
            self._run_inside(operation, known, transaction, answer)
        else:
            self._call_out(operation, known, answer)

    def _run_inside(self, operation: Execute, known: Known, transaction: SimulatedTransaction, answer: Answer) -> None:
        world, record = self._world, operation.record
        is_undo = operation.duty in _UNDO
        if world.hit("step_overrun") is not None:
            world.saw("overran into the slow lane")
            world.after(int(operation.budget_s * SECOND), answer, Overran())
            return
        broke = world.hit("undo_error" if is_undo else "step_error")
        if broke is not None:
            refuses = is_undo and broke < 0.2
            world.soon(answer, Rejected("not now") if refuses else self._broke(operation, known, final=broke > 0.98))
            return
        if not is_undo and world.hit("step_reject") is not None:
            world.soon(answer, Rejected("no"))
            return
        choice = choice_of(known.plan.steps[record.step], self._stream)
        effect = Effect(record.saga_id, record.step, is_undo)
        world.soon(self._did, transaction, effect, answer, self._undone(record, known) if is_undo else _ran(record, choice))

    def _broke(self, operation: Execute, known: Known, *, final: bool = False) -> Broke:
        """With an exception of some class, for which the step may have a policy."""
        kind, options = self._errors.pick(ERRORS), known.options(operation.record.step)
        retry = options.undo_retry if operation.duty in _UNDO else options.retry
        return Broke(f"{kind.__name__}: simulated", final=final, retry=retry.of(kind))

    def _did(self, transaction: SimulatedTransaction, effect: Effect, answer: Answer, ran: Ran) -> None:
        transaction.effects.append(effect)
        answer(ran)

    def _undone(self, record: Record, known: Known) -> Ran:
        tells = known.plan.choreography.steps[record.step].undo_event is not None and self._stream.chance(0.8)
        return Ran(undo_result=payload_of(record.key, record.step, UNDONE) if tells else None)

    def _call_out(self, operation: Execute, known: Known, answer: Answer) -> None:
        record, is_undo = operation.record, operation.duty in _UNDO
        step = known.plan.steps[record.step]
        # The key is the product's: whether a retry is one more charge depends on it.
        key = Attempt(record, step.name, operation.duty, None, _no_heartbeat).idempotency_key
        pending = not is_undo and (bool(step.deadline_choice) or self._stream.chance(0.08))
        choice = choice_of(step, self._stream)

        def came(reply: Reply | None) -> None:
            answer(self._meaning(reply, operation, known, is_undo=is_undo))

        self._provider.call(key, (record.saga_id, record.step, is_undo), choice, came, pending=pending)

    def _meaning(self, reply: Reply | None, operation: Execute, known: Known, *, is_undo: bool) -> Executed:
        record = operation.record
        if reply is None or not (reply.is_done or reply.is_declined):
            return self._broke(operation, known) if self._stream.chance(0.5) else Overran()
        if reply.is_declined:
            return Rejected("declined by the provider")
        if is_undo:
            return self._undone(record, known)
        if reply.is_pending:
            self._completion(record)
            return _ran(record, 0, pending=True)
        return _ran(record, reply.choice)
