"""`python -m examples.own_transactions.with_sqlalchemy`: steps and web handlers share one async_sessionmaker."""

from __future__ import annotations

import asyncio

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from examples.own_transactions.shop import BROKER, OrderPlaced, form, postgres
from saga_choreo import Agent, StepContext
from saga_choreo_postgres import session

__all__ = ["main"]


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="placed")


def engine_of(url: str) -> AsyncEngine:
    server, _, schema = url.partition("?search_path=")
    settings = {"search_path": schema or "public"}
    return create_async_engine(server.replace("postgresql://", "postgresql+asyncpg://"), connect_args={"server_settings": settings})


async def run(url: str) -> None:
    engine = engine_of(url)
    new_session = async_sessionmaker(engine)
    shop = Agent("shop", saga=form, broker=BROKER, store=url, tx=new_session)

    @shop.step("confirm")
    async def confirm(placed: OrderPlaced, ctx: StepContext) -> None:
        db = await session(ctx)  # a fresh one of `new_session`, committed together with the step's record
        (await db.get_one(Order, placed.name)).state = "confirmed"

    @confirm.compensation
    async def withdraw(ctx: StepContext) -> None:
        db = await session(ctx)
        (await db.get_one(Order, ctx.key)).state = "withdrawn"

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with shop.serving():
        await shop.ready()
        async with new_session() as web:
            web.add(Order(name="A-1"))
            saga = await shop.start_saga(OrderPlaced(name="A-1"), key="A-1", tx=web)
            await web.commit()  # publishes the start event, too
        print("A-1", await saga.wait(10))

        async with new_session() as web:
            web.add(Order(name="A-2"))
            await shop.start_saga(OrderPlaced(name="A-2"), key="A-2", tx=web)
            await web.rollback()
        async with new_session() as web:
            orders = (await web.scalars(select(Order))).all()
        print(*[(order.name, order.state) for order in orders], len(await shop.sagas()), "saga")
    await engine.dispose()


def main() -> None:
    with postgres() as url:
        asyncio.run(run(url))


if __name__ == "__main__":
    main()
