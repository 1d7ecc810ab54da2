"""`python -m examples.own_transactions.with_psycopg`: steps and web handlers write with psycopg 3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import psycopg as driver

from examples.own_transactions.shop import BROKER, TABLE, OrderPlaced, form, postgres
from saga_choreo import Agent, StepContext
from saga_choreo_postgres import psycopg

__all__ = ["main"]


async def run(url: str) -> None:
    server, _, schema = url.partition("?search_path=")

    @asynccontextmanager
    async def connect() -> AsyncGenerator[driver.AsyncConnection[Any]]:
        """In an application: the `connection` of its psycopg_pool.AsyncConnectionPool."""
        async with await driver.AsyncConnection.connect(server, options=f"-csearch_path={schema or 'public'}") as connection:
            yield connection

    shop = Agent("shop", saga=form, broker=BROKER, store=url, tx=connect)

    @shop.step("confirm")
    async def confirm(order: OrderPlaced, ctx: StepContext) -> None:
        connection = await psycopg(ctx)  # one that `connect` has made, and that the step's record is written on
        await connection.execute("update orders set state = 'confirmed' where name = %s", (order.name,))

    @confirm.compensation
    async def withdraw(ctx: StepContext) -> None:
        connection = await psycopg(ctx)
        await connection.execute("update orders set state = 'withdrawn' where name = %s", (ctx.key,))

    async with shop.serving(), connect() as web:
        await shop.ready()
        await web.execute(TABLE)
        await web.execute("insert into orders values ('A-1', 'placed')")
        saga = await shop.start_saga(OrderPlaced(name="A-1"), key="A-1", tx=web)
        await web.commit()
        await saga.published()
        print("A-1", await saga.wait(10))

        await web.execute("insert into orders values ('A-2', 'placed')")
        await shop.start_saga(OrderPlaced(name="A-2"), key="A-2", tx=web)
        await web.rollback()
        print(*await (await web.execute("select * from orders")).fetchall(), len(await shop.sagas()), "saga")


def main() -> None:
    with postgres() as url:
        asyncio.run(run(url))


if __name__ == "__main__":
    main()
