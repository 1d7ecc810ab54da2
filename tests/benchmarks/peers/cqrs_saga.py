"""python-cqrs: an orchestrated saga in one process, its state and step log in PostgreSQL through the package's SQLAlchemy storage, no
broker. The business row is a transaction of its own, since the storage keeps its session to itself."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from typing import Any

import di
import sqlalchemy as sa
from cqrs.bootstrap import saga as bootstrap
from cqrs.handlers.saga import SagaStepHandler
from cqrs.saga.models import SagaContext
from cqrs.saga.saga import Saga
from cqrs.saga.storage.sqlalchemy import Base, SqlAlchemySagaStorage
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from tests.benchmarks.workload import (
    EFFECTS,
    FORWARD,
    SELECT,
    UPSERT,
    Declined,
    Meter,
    Task,
    all_of_them,
    must_fail,
    names,
    report,
    run,
)

_EFFECT = sa.text(UPSERT.format(":saga", ":action"))


@dataclasses.dataclass
class OrderContext(SagaContext):
    saga: str


def _steps(engine: AsyncEngine, task: Task) -> list[type[SagaStepHandler[OrderContext, None]]]:
    async def effect(saga: str, action: str) -> None:
        async with engine.begin() as connection:
            await connection.execute(_EFFECT, {"saga": saga, "action": action})

    class Step(SagaStepHandler[OrderContext, None]):
        action = ""

        @property
        def events(self) -> list[Any]:
            return []

        async def act(self, context: OrderContext) -> Any:
            if self.action == "confirm" and must_fail(context.saga, task):
                raise Declined(context.saga)
            await effect(context.saga, self.action)
            return self._generate_step_result(None)

        async def compensate(self, context: OrderContext) -> None:
            await effect(context.saga, f"undo_{self.action}")

    return [type(f"{action.title()}Step", (Step,), {"action": action}) for action in FORWARD]


async def main(task: Task) -> None:
    logging.disable(logging.CRITICAL)
    engine = create_async_engine(task.driver("asyncpg"), pool_size=40, max_overflow=40)
    async with engine.begin() as connection:
        await connection.execute(sa.text(EFFECTS))
        await connection.run_sync(Base.metadata.create_all)

    class OrderSaga(Saga[OrderContext]):
        steps = _steps(engine, task)

    mediator = bootstrap.bootstrap(
        di_container=di.Container(),
        saga_storage=SqlAlchemySagaStorage(async_sessionmaker(engine, expire_on_commit=False)),
        sagas_mapper=lambda mapper: mapper.bind(OrderContext, OrderSaga),
    )

    async def one(saga: str, _intended_s: float) -> None:
        try:
            async for _ in mediator.execute(OrderContext(saga=saga), saga_id=uuid.uuid4()):
                pass
        except Declined:
            pass  # raised once more, after everything is undone

    sagas = names(task)
    meter = Meter(task)
    await all_of_them(sagas, task, one)
    meter.stop()
    async with engine.connect() as connection:
        rows = (await connection.execute(sa.text(SELECT.format(":sagas")), {"sagas": sagas})).all()
    await engine.dispose()
    report("cqrs", task, sagas, rows, meter)


if __name__ == "__main__":
    run(main)
