"""A client that starts one saga: again and again, until it is there."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from saga_choreo.core.graph import Plan
from saga_choreo.core.origin import opened
from saga_choreo.errors import SagaError
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.runtime.operations import Begin, Commit, Operation, Publish, Save
from saga_choreo.runtime.saying import publications_of
from saga_choreo.runtime.workspace import Workspace
from saga_choreo.testing.simulator.carried import results_of
from saga_choreo.testing.simulator.driving import Run
from saga_choreo.testing.simulator.streams import Stream
from saga_choreo.testing.simulator.world import SECOND, World

if TYPE_CHECKING:
    from saga_choreo.testing.simulator.process import Process

__all__ = ["Client", "trace_of"]

_LOOK_NS = 2 * SECOND


def trace_of(stream: Stream) -> str:
    """The trace that a saga belongs to, as records keep it."""
    return f"00-{stream.entropy(16).hex()}-{stream.entropy(8).hex()}-01\nsim=1"


class Client:
    """`record` is what `start_saga` writes; `is_there` asks the store."""

    def __init__(self, world: World, origin: Sequence[Process], plan: Plan, number: int) -> None:
        self._world = world
        self._origin = origin
        self._plan = plan
        stream = world.streams.named(f"client/{number}")
        now_ms = world.wall_ns() // 1_000_000
        bad = world.hit("deadline")
        self.record = Record(
            service=origin[0].store.service,
            saga_id=saga_id_at(now_ms, stream.entropy(10)),
            definition=plan.definition,
            step=ORIGIN,
            row=opened(),
            choreography=plan.choreography.name,
            origin=origin[0].store.service,
            key=f"SAGA-{number}",
            deadline_ms=None if bad is None else now_ms + 1000 + int(bad * 59_000),
            results=results_of(f"SAGA-{number}", ORIGIN, 1),
            trace=trace_of(stream),
            changed_ms=now_ms,
        )

    @property
    def is_there(self) -> bool:
        return self._origin[0].store.get(self.record.record_key) is not None

    def try_to_start(self) -> None:
        """Until the store says that it is there: whatever else an answer says, or when none comes."""
        if self.is_there:
            return
        process = next((one for one in self._origin if one.is_up), None)
        if process is not None and process.catalog.get(self._plan.definition) is not None:
            process.begin(self._steps(process), _no_matter)
        self._world.after(_LOOK_NS, self.try_to_start)

    def _steps(self, process: Process) -> Generator[Operation, Any, None]:
        """What `runtime.sagas.start` does, as operations."""
        now_ms = self._world.wall_ns(process.skew_ns) // 1_000_000
        ws = Workspace(process.store.service, process.catalog, process.limits, now_ms, process.jitter.random())
        known = process.catalog.get(self._plan.definition)
        assert known is not None
        ws.open_origin(self.record, known)
        yield Begin()
        saved = ws.changed()
        yield Save(saved)
        yield Commit()
        yield Publish(publications_of(saved, process.catalog, self._world.wall_ns(process.skew_ns)))


def _no_matter(run: Run, value: Any, error: SagaError | None) -> None:
    del run, value, error
