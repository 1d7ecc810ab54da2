"""The order saga on NATS and PostgreSQL: four services in one database, judged by a ledger that hides nothing.

The ledger has no unique key: an effect that happened twice is there twice. It is written in each step's own transaction.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from examples.order_processing.choreography import (
    OrderCreated,
    PaymentCharged,
    PaymentRefunded,
    ShipmentBooked,
    StockReleased,
    StockReserved,
    order_processing,
)
from saga_choreo import Agent, Limits, Reject, SagaHandle, SagaState, StepContext
from saga_choreo.errors import StoreUnavailable
from saga_choreo.testing.harness import Cluster
from saga_choreo.testing.postgres_server import PostgresServer
from tests.scenarios.world import eventually, run

_numbers = itertools.count()
QUICK = Limits(nudge_first_s=1.0, unannounced_after_s=0.6, ready_timeout_s=10.0, stop_grace_s=3.0)
STEPS = ("reserve-stock", "charge-payment", "book-shipment", "confirm-order")
LEDGER = (
    "create table if not exists ledger (saga text, step text, effect text, agent text, at timestamptz default clock_timestamp())"
)


async def note(ctx: StepContext, effect: str, agent: str) -> None:
    statement = "insert into ledger (saga, step, effect, agent) values ($1, $2, $3, $4)"
    await ctx.tx.execute(statement, str(ctx.saga_id), ctx.step, effect, agent)


def inventory(agent: Agent, label: str = "") -> None:
    @agent.step("reserve-stock")
    async def reserve(order: OrderCreated, ctx: StepContext) -> StockReserved:
        await note(ctx, "do", label)
        return StockReserved(order=order.order, quantity=order.quantity)

    @reserve.compensation
    async def release(reserved: StockReserved, ctx: StepContext) -> StockReleased:
        await note(ctx, "undo", label)
        return StockReleased(order=reserved.order)


def payment(agent: Agent) -> None:
    @agent.step("charge-payment")
    async def charge(order: OrderCreated, reserved: StockReserved, ctx: StepContext) -> PaymentCharged:
        await note(ctx, "do", "")
        if order.card == "declined":  # after the write: the refusal has to undo it
            raise Reject("card declined")
        return PaymentCharged(order=order.order, amount_cents=order.amount_cents)

    @charge.compensation
    async def refund(charged: PaymentCharged, ctx: StepContext) -> PaymentRefunded:
        await note(ctx, "undo", "")
        return PaymentRefunded(order=charged.order, amount_cents=charged.amount_cents)


def shipping(agent: Agent) -> None:
    @agent.step("book-shipment")
    async def book(order: OrderCreated, charged: PaymentCharged, ctx: StepContext) -> ShipmentBooked:
        if order.address == "unreachable":
            raise Reject("nobody delivers there")
        await note(ctx, "do", "")
        return ShipmentBooked(order=order.order)

    @book.compensation
    async def cancel(booked: ShipmentBooked, ctx: StepContext) -> None:
        await note(ctx, "undo", "")


def ordering(agent: Agent) -> None:
    @agent.step("confirm-order")
    async def confirm(booked: ShipmentBooked, ctx: StepContext) -> None:
        await note(ctx, "do", "")

    @confirm.compensation
    async def withdraw(ctx: StepContext) -> None:
        await note(ctx, "undo", "")


DECLARE: dict[str, Callable[[Agent], None]] = {
    "inventory": inventory,
    "payment": payment,
    "shipping": shipping,
    "order": ordering,
}


def agent_of(service: str, broker: str, store: str, prefix: str) -> Agent:
    return Agent(service, saga=order_processing, broker=broker, store=store, prefix=prefix, limits=QUICK)


def four(broker: str, store: str, prefix: str) -> Cluster:
    agents = [agent_of(service, broker, store, prefix) for service in DECLARE]
    for agent in agents:
        DECLARE[agent.name](agent)
    return Cluster(*agents, store=store)


async def prepared(store: str) -> None:
    connection = await asyncpg.connect(store)
    await connection.execute(LEDGER)
    await connection.close()


def order(number: int) -> OrderCreated:
    """Every fifth is refused by the bank, every seventh by the carrier."""
    return OrderCreated(
        order=f"o-{number}",
        item="book",
        quantity=1,
        amount_cents=100,
        card="declined" if number % 5 == 0 else "good",
        address="unreachable" if number % 7 == 0 else "home",
    )


def refused(number: int) -> bool:
    return number % 5 == 0 or number % 7 == 0


async def judge(store: str, handles: Sequence[SagaHandle]) -> None:
    """What stands in the ledger is exactly what the sagas' outcomes say, each effect once, undone in reverse order."""
    connection = await asyncpg.connect(store)
    rows = await connection.fetch("select saga, step, effect from ledger order by at")
    await connection.close()
    by_saga: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for saga, step, effect in rows:
        by_saga[saga].append((step, effect))
    assert set(by_saga) <= {str(handle.saga_id) for handle in handles}
    for number, handle in enumerate(handles):
        done = STEPS
        if refused(number):
            done = STEPS[:1] if number % 5 == 0 else STEPS[:2]
        expected = [(step, "do") for step in done]
        if refused(number):
            expected += [(step, "undo") for step in reversed(done)]
        assert by_saga[str(handle.saga_id)] == expected, f"saga {number} of {handle.saga_id}"


async def ends(handles: Sequence[SagaHandle], within_s: float) -> None:
    for number, handle in enumerate(handles):
        assert await handle.wait(within_s) is (SagaState.COMPENSATED if refused(number) else SagaState.COMPLETED)


def test_orders_complete_or_are_undone_with_four_services_in_one_database(
    nats_url: str, postgres_schema: Callable[[], str]
) -> None:
    async def scenario() -> None:
        store = postgres_schema()
        await prepared(store)
        async with four(nats_url, store, f"pg{next(_numbers)}") as cluster:
            handles = await asyncio.gather(*(cluster["order"].start_saga(order(n), key=f"o-{n}") for n in range(60)))
            await ends(handles, 90)
        await judge(store, handles)

    run(scenario(), 60)


async def started(agent: Agent, number: int) -> SagaHandle:
    """As a careful caller starts a saga: the same key again until the answer is known."""
    until = time.monotonic() + 30
    while True:
        try:
            return await agent.start_saga(order(number), key=f"o-{number}")
        except StoreUnavailable:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


async def waited(handle: SagaHandle) -> SagaState:
    until = time.monotonic() + 60
    while True:
        try:
            return await handle.wait(30)
        except StoreUnavailable:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


def test_a_server_killed_under_load_and_started_again_loses_and_repeats_nothing(
    nats_url: str, own_postgres: PostgresServer
) -> None:
    own_postgres.start()

    async def scenario() -> None:
        store = own_postgres.url
        await prepared(store)
        async with four(nats_url, store, f"pg{next(_numbers)}") as cluster:

            async def load(numbers: range) -> list[SagaHandle]:
                return [await started(cluster["order"], number) for number in numbers]

            loading = [asyncio.create_task(load(range(first, 240, 4))) for first in range(4)]
            for _ in range(3):
                before = await noted(store)
                await eventually(lambda least=before + 30: reached(store, least), 30)  # type: ignore[misc]  # a default is bound
                own_postgres.kill()
                own_postgres.start()
            parts = await asyncio.gather(*loading)
            handles = [parts[n % 4][n // 4] for n in range(240)]
            states = Counter([await waited(handle) for handle in handles])
            assert states == Counter(SagaState.COMPENSATED if refused(n) else SagaState.COMPLETED for n in range(240))
        await judge(store, handles)

    run(scenario(), 120)


async def noted(store: str) -> int:
    connection = await asyncpg.connect(store)
    count: Any = await connection.fetchval("select count(*) from ledger")
    await connection.close()
    return int(count)


async def reached(store: str, least: int) -> bool:
    try:
        return await noted(store) >= least
    except (OSError, asyncpg.PostgresError):
        return False


def test_a_saga_started_in_a_sqlalchemy_session_begins_with_its_commit_and_not_with_its_rollback(
    nats_url: str, postgres_schema: Callable[[], str]
) -> None:
    async def scenario() -> None:
        store = postgres_schema()
        await prepared(store)
        server, _, schema = store.partition("?search_path=")
        engine = create_async_engine(
            server.replace("postgresql://", "postgresql+asyncpg://"), connect_args={"server_settings": {"search_path": schema}}
        )
        async with four(nats_url, store, f"pg{next(_numbers)}") as cluster:
            async with AsyncSession(engine) as session:
                undone = await cluster["order"].start_saga(order(1), key="o-1", tx=session)
                await session.rollback()
            async with AsyncSession(engine) as session:
                await session.execute(text("create table placed (number int)"))
                kept = await cluster["order"].start_saga(order(1), key="o-1", tx=session)
                await session.commit()
            assert undone.saga_id != kept.saga_id
            assert await kept.wait(20) is SagaState.COMPLETED
        await engine.dispose()
        connection = await asyncpg.connect(store)
        assert [row[0] for row in await connection.fetch("select distinct saga from ledger")] == [str(kept.saga_id)]
        await connection.close()

    run(scenario(), 60)


def test_two_agents_of_one_service_share_the_work(nats_url: str, postgres_schema: Callable[[], str]) -> None:
    async def scenario() -> None:
        store = postgres_schema()
        await prepared(store)
        prefix = f"pg{next(_numbers)}"
        others = [agent_of(service, nats_url, store, prefix) for service in DECLARE if service != "inventory"]
        for agent in others:
            DECLARE[agent.name](agent)
        pair = [agent_of("inventory", nats_url, store, prefix) for _ in range(2)]
        for agent, label in zip(pair, "ab", strict=True):
            inventory(agent, label)
        async with pair[0].serving(), pair[1].serving(), Cluster(*others) as cluster:
            await cluster.ready()
            handles = await asyncio.gather(*(cluster["order"].start_saga(order(n)) for n in range(100)))
            await ends(handles, 90)
        await judge(store, handles)
        connection = await asyncpg.connect(store)
        rows = await connection.fetch("select agent, count(*) from ledger where step = 'reserve-stock' group by agent")
        await connection.close()
        assert {row[0] for row in rows} == {"a", "b"}, "one of them did all of it"

    run(scenario(), 60)
