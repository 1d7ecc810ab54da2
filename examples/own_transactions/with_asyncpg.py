"""`python -m examples.own_transactions.with_asyncpg`: the toolkit's own way; `ctx.tx` is all that a step needs."""

from __future__ import annotations

import asyncio

import asyncpg

from examples.own_transactions.shop import BROKER, TABLE, OrderPlaced, form, postgres
from saga_choreo import Agent, StepContext
from saga_choreo_postgres import connection

__all__ = ["main"]


async def run(url: str) -> None:
    shop = Agent("shop", saga=form, broker=BROKER, store=url)

    @shop.step("confirm")
    async def confirm(order: OrderPlaced, ctx: StepContext) -> None:
        driver = await connection(ctx)  # or: await ctx.tx.execute(...), which is the same connection
        await driver.execute("update orders set state = 'confirmed' where name = $1", order.name)

    @confirm.compensation
    async def withdraw(ctx: StepContext) -> None:
        await ctx.tx.execute("update orders set state = 'withdrawn' where name = $1", ctx.key)

    async with shop.serving(), asyncpg.create_pool(url) as pool, pool.acquire() as web:
        await shop.ready()
        await web.execute(TABLE)
        async with web.transaction():
            await web.execute("insert into orders values ('A-1', 'placed')")
            saga = await shop.start_saga(OrderPlaced(name="A-1"), key="A-1", tx=web)
        await saga.published()
        print("A-1", await saga.wait(10))

        undone = web.transaction()
        await undone.start()
        await web.execute("insert into orders values ('A-2', 'placed')")
        await shop.start_saga(OrderPlaced(name="A-2"), key="A-2", tx=web)
        await undone.rollback()
        print(*[tuple(row) for row in await web.fetch("select * from orders")], len(await shop.sagas()), "saga")


def main() -> None:
    with postgres() as url:
        asyncio.run(run(url))


if __name__ == "__main__":
    main()
