"""Commands on a participant's store alone, for tools: they change records, and the service's agents publish what follows."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from saga_choreo.core.facts import CancelRequested, Fact, Refusal
from saga_choreo.errors import Refused, SagaNotFound
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.ports.broker import Broker, Outgoing
from saga_choreo.ports.clock import Clock
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.driver import Driver
from saga_choreo.runtime.operations import Ending, Publication
from saga_choreo.runtime.pipeline import Pipeline
from saga_choreo.runtime.plugins import WholeStore
from saga_choreo.runtime.timing import Limits
from saga_choreo.runtime.views import plan_from

__all__ = ["command", "request_cancel"]


class _StoreOnly:
    """Surroundings without a broker: what records say stays unannounced, so the service's agents find and publish it."""

    broker: Broker

    def __init__(self, service: str, store: WholeStore, catalog: Catalog) -> None:
        self.service = service
        self.store = store
        self.catalog = catalog
        self.clock: Clock = SystemClock()

    @property
    def lease_s(self) -> float:
        return Limits().lease_s

    async def publish(self, publications: Sequence[Publication], loose: Sequence[Outgoing]) -> None:
        del publications, loose

    def saved(self, records: Sequence[Record]) -> None:
        del records

    async def tell(self, endings: Sequence[Ending]) -> frozenset[UUID]:
        del endings
        return frozenset()


async def command(store: WholeStore, service: str, saga_id: UUID, step: int | None, fact: Fact, reason: str) -> Row:
    """Apply a person's word to one record of a service. Raises SagaNotFound, Refused."""
    records = await store.records(saga_id, service)
    record = next((one for one in records if step is None or one.step == step), None)
    plan = None if record is None else plan_from(await store.definitions(), record.definition)
    if record is None or plan is None:
        raise SagaNotFound(
            f"saga {str(saga_id)!r} is not known to service {service!r} in this store; look in the store of its origin"
        )
    catalog = Catalog(service)
    catalog.add(plan)
    pipeline = Pipeline(service, catalog, Limits(), {})
    answer = await Driver(_StoreOnly(service, store, catalog)).run(pipeline.command(saga_id, step, fact, reason))
    if isinstance(answer, Refusal):
        raise Refused(f"saga {str(saga_id)!r}: {answer.reason}")
    if not isinstance(answer, Row):
        raise SagaNotFound(f"saga {str(saga_id)!r} is not known to service {service!r} in this store any more")
    return answer


async def request_cancel(store: WholeStore, saga_id: UUID, reason: str) -> None:
    """Ask for a saga to be undone, from any participant's store: at its origin it is decided at once, elsewhere the request
    travels to the origin. Raises SagaNotFound, Refused (the saga has ended)."""
    records = await store.records(saga_id)
    if not records:
        raise SagaNotFound(f"no saga {str(saga_id)!r} in this store; look in the store of the service that started it")
    chosen = next((record for record in records if record.step == ORIGIN), records[0])
    await command(store, chosen.service, saga_id, chosen.step, CancelRequested(), reason)
