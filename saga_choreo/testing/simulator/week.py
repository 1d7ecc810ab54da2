"""Next week: everything is over and mostly forgotten, and old messages come again. None of them may do anything (S12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from saga_choreo.core.graph import Plan
from saga_choreo.core.rows import is_finished
from saga_choreo.model.envelope import ChannelKind
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import ORIGIN_NAME, Record
from saga_choreo.model.states import Outcome
from saga_choreo.ports.broker import Outgoing
from saga_choreo.testing.simulator.store import SimulatedStore
from saga_choreo.testing.simulator.world import SECOND

if TYPE_CHECKING:
    from saga_choreo.testing.simulator.simulation import Simulation

__all__ = ["LOGGED_MAX", "NextWeek"]

# So many messages of a run are kept, to come again.
LOGGED_MAX = 400
_AGAIN_MAX = 24
_QUIET_NS = 3600 * SECOND


class NextWeek:
    """Of one simulation, all of whose sagas have ended."""

    def __init__(self, simulation: Simulation, plans: Mapping[str, Plan]) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._plans = plans
        self._stream = simulation.world.streams.named("week")
        self._debts: dict[str, None] = {}

    def pass_by(self) -> None:
        """Time passes, stores forget, messages come again; then nothing may have changed."""
        world, simulation = self._world, self._simulation
        limits = simulation.limits
        kept_s = limits.horizon_s + limits.clock_bound_s
        world.now_ns += int((kept_s + 600) * SECOND)
        world.note("WORLD", "a week has passed")
        world.saw("messages came again after the horizon")
        before = saga_id_at(world.wall_ns() // 1_000_000 - int(kept_s * 1000), bytes(10))
        stores = [agents[0].store for agents in simulation.processes.values()]
        for store in stores:
            if self._stream.chance(0.8):
                _forget(store, before)
        left = {store.service: _contents(store) for store in stores}
        effects = simulation.oracle.effects
        simulation.oracle.ends.is_late = True
        simulation.oracle.ends.outcomes.clear()
        self._send_again({store.service: store for store in stores})
        world.run(world.now_ns + _QUIET_NS)
        if simulation.oracle.effects != effects and not world.violations:
            world.broken("S12", "a message of a saga that was over long ago did something")
        for saga in self._debts:
            if Outcome.FAILED.value not in simulation.oracle.ends.outcomes.get(saga, ()) and not world.violations:
                world.broken("S7", f"a debt of saga {saga!r} was told again to who had forgotten it, and is answered without")
        for store in stores:
            if _contents(store) != left[store.service] and not world.violations:
                world.broken("S12", f"a message from before the horizon changed a record of {store.service!r}")

    def _send_again(self, stores: Mapping[str, SimulatedStore]) -> None:
        """A few old messages, each to one of those it once went to."""
        logged, broker = self._simulation.broker.logged, self._simulation.broker
        picked = [self._stream.pick(logged) for _ in range(min(_AGAIN_MAX, len(logged)))]
        for service, message in (*picked, *[one for one in logged if _is_debt(one[1])][:2]):  # debts are rare
            self._note_debt(message, stores[service])
            stale = self._must_be_stale(message, stores[service])
            broker.send(service, self._simulation.strays.again(message, service, stale=stale))

    def _note_debt(self, message: Outgoing, store: SimulatedStore) -> None:
        """A CLEAR with a debt, for a saga that its origin has forgotten: the answer is that it has failed."""
        headers = message.headers
        is_forgotten = headers.get("ce-sagaorigin") == store.service and UUID(headers["ce-sagaid"]) not in store.records
        if _is_debt(message) and is_forgotten:
            self._world.saw("a debt was told again, and was forgotten")
            self._debts[headers["ce-sagaid"]] = None

    def _must_be_stale(self, message: Outgoing, store: SimulatedStore) -> bool:
        """An event of a saga whose records are gone, at a service with a step that waits for it."""
        headers = message.headers
        plan = self._plans.get(headers.get("ce-sagadef", ""))
        if plan is None or message.channel.kind is not ChannelKind.EVENT or UUID(headers["ce-sagaid"]) in store.records:
            return False
        source = headers.get("ce-sagafrom", "")
        readers: Sequence[int] = [
            step.index
            for step in plan.owned_by(store.service)
            for number, event in step.in_edges
            if event is not None and event.name == message.channel.name and plan.step(number).name == source
        ]
        return bool(readers) and headers.get("ce-sagamsg") in ("saga.started", "step.completed")


def _is_debt(message: Outgoing) -> bool:
    """It tells an origin of one."""
    headers = message.headers
    is_clear = headers.get("ce-sagamsg") == "compensation.completed" and headers.get("ce-sagato") == ORIGIN_NAME
    return is_clear and "ce-sagadebt" in headers


def _forget(store: SimulatedStore, before: UUID) -> None:
    """As stores do: what is finished, said and older than that."""
    for saga_id in [one for one in store.records if one < before]:
        rows = store.records[saga_id]
        for key in [key for key, record in rows.items() if is_finished(record.row) and record.announced >= record.version]:
            del rows[key]
        if not rows:
            del store.records[saga_id]


def _contents(store: SimulatedStore) -> dict[UUID, list[Record]]:
    return {saga_id: [rows[key] for key in sorted(rows)] for saga_id, rows in store.records.items()}
