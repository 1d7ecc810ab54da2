"""DBOS on PostgreSQL: a durable workflow a saga, each step a transaction in which the business row and the step's checkpoint commit
together. One process, no broker. The undo is written by hand in the workflow, as its documentation advises."""

from __future__ import annotations

import sqlalchemy as sa
from dbos import DBOS, AsyncSQLAlchemyDatasource, SetWorkflowID

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


async def main(task: Task) -> None:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": task.database,
            "log_level": "ERROR",
            "sys_db_pool_size": 16,
            "dbos_system_schema": "dbos",
        }
    )
    source = await AsyncSQLAlchemyDatasource.create(task.database, engine_kwargs={"pool_size": 16})

    async def effect(saga: str, action: str) -> None:
        async def body() -> None:
            await source.sql_session().execute(_EFFECT, {"saga": saga, "action": action})

        await source.run_tx_step_async({"name": action, "isolation_level": "READ COMMITTED"}, body)

    @DBOS.workflow()
    async def order_saga(saga: str) -> str:
        done: list[str] = []
        try:
            for action in FORWARD[:3]:
                await effect(saga, action)
                done.append(action)
            if must_fail(saga, task):
                raise Declined(saga)
            await effect(saga, FORWARD[3])
        except Declined:
            for action in reversed(done):
                await effect(saga, f"undo_{action}")
            return "compensated"
        return "completed"

    async def one(saga: str, _intended_s: float) -> None:
        with SetWorkflowID(saga):
            await order_saga(saga)

    DBOS.launch()
    try:
        async with source.engine.begin() as connection:
            await connection.execute(sa.text(EFFECTS))
        sagas = names(task)
        meter = Meter(task)
        await all_of_them(sagas, task, one)
        meter.stop()
        async with source.engine.connect() as connection:
            rows = (await connection.execute(sa.text(SELECT.format(":sagas")), {"sagas": sagas})).all()
    finally:
        DBOS.destroy()
    report("dbos", task, sagas, rows, meter)


if __name__ == "__main__":
    run(main)
