"""What type checkers must conclude about what users write; run by mypy and pyright, never imported.

An ignored error is part of the test: a checker that no longer finds it complains about the ignore.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Annotated, Any, assert_type

from pydantic import BaseModel

from saga_choreo import Agent
from saga_choreo.model.breaker import Breaker
from saga_choreo.model.choreography import ChoreographyStep, all_of
from saga_choreo.model.event import Event
from saga_choreo.model.retry import Retry
from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.declarations import Declarations
from saga_choreo.runtime.declare.decorators import OnEvent, PublishEvent, on_event, publish_event, with_compensation
from saga_choreo.runtime.declare.inject import Depends
from saga_choreo.runtime.declare.results import Chosen, Pending, choose
from saga_choreo.runtime.declare.step import Step


class OrderCreated(Event, name="order.created"):
    amount: int = 0


class PaymentCharged(Event, name="payment.charged"): ...


class PaymentRefunded(Event, name="payment.refunded"): ...


class Kept(BaseModel):
    charge: str = ""


agent = Declarations("payment")


@agent.step
async def charge_payment(order: OrderCreated, ctx: StepContext) -> PaymentCharged:
    ctx.keep(Kept(charge=ctx.idempotency_key))
    await ctx.tx.execute("insert into charges values (?)", order.amount)
    return PaymentCharged()


@charge_payment.compensation
async def refund_payment(done: PaymentCharged, kept: Kept | None, ctx: StepContext) -> PaymentRefunded:
    return PaymentRefunded()


assert_type(charge_payment.name, str)
assert_type(charge_payment.definition, ChoreographyStep)


async def calls(ctx: StepContext) -> None:
    assert_type(await charge_payment(OrderCreated(), ctx), PaymentCharged)
    assert_type(await charge_payment(order=OrderCreated(), ctx=ctx), PaymentCharged)
    assert_type(await refund_payment(PaymentCharged(), None, ctx), PaymentRefunded)
    await charge_payment(OrderCreated())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  (ctx is missing)
    await charge_payment(PaymentCharged(), ctx)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  (the wrong event)


# All decorators at once, above and below, keep the signature.
@with_compensation("payment.refunded", external=True)
@on_event(all_of(OrderCreated, "stock.reserved"))
@agent.step(
    "charge-slowly",
    retry=Retry(attempts=5),
    timeout=timedelta(seconds=10),
    external=True,
    deadline=30,
    on_deadline="payment.timed_out",
)
@OnEvent(OrderCreated)
@PublishEvent(PaymentCharged)
@publish_event("payment.charged")
async def charge_slowly(order: OrderCreated, *, limit: int = 3) -> PaymentCharged | Pending:
    return Pending()


@charge_slowly.compensation(external=True, retry=Retry(attempts=20))
async def refund_slowly(done: PaymentCharged) -> None: ...


async def calls_slowly() -> None:
    assert_type(await charge_slowly(OrderCreated(), limit=5), PaymentCharged | Pending)
    assert_type(await refund_slowly(PaymentCharged()), None)


@agent.step(name="choose-some")
async def choose_some(order: OrderCreated) -> Chosen[PaymentCharged | PaymentRefunded]:
    return choose(PaymentCharged())


async def calls_chosen() -> None:
    chosen = await choose_some(OrderCreated())
    assert_type(chosen.get(PaymentCharged), PaymentCharged | None)


def not_async(order: OrderCreated) -> PaymentCharged:
    return PaymentCharged()


agent.step(not_async)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]  (a step is async)
agent.step("x", timeout="10")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  (no duration)


async def get_pool() -> int:
    return 1


async def get_session(pool: Annotated[int, Depends(get_pool)]) -> AsyncIterator[str]:
    yield str(pool)


def get_lock() -> Iterator[bytes]:
    yield b""


def get_plain() -> float:
    return 0.0


assert_type(Depends(get_pool), int)
assert_type(Depends(get_session), str)
assert_type(Depends(get_lock), bytes)
assert_type(Depends(get_plain), float)


@agent.step
async def with_dependencies(order: OrderCreated, pool: int = Depends(get_pool), session: str = Depends(get_session)) -> None: ...


def takes_any_step(step: Step[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    return step


takes_any_step(with_dependencies)


@agent.step(
    "limited",
    retry=Retry(attempts=None, max_time_s=60, on={TimeoutError: Retry.never(), ConnectionError: Retry.forever()}),
    concurrency=4,
    rate_per_s=10,
    breaker=Breaker(failures=5, open_s=30),
    lock=lambda order: f"amount:{order.amount}",
    on_conflict="refuse",
)
async def limited(order: OrderCreated) -> None: ...


agent.step("x", on_conflict="fail")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  (one of two words)
agent.step("x", lock="customer:1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  (a function of the events)

web = Agent("web", saga="shop")
web.starts_on(OrderCreated, key=lambda order: f"order-{assert_type(order, OrderCreated).amount}")
web.starts_on(OrderCreated, key=lambda order: order.amount)  # type: ignore[arg-type, return-value, unused-ignore]  # pyright: ignore[reportArgumentType]
