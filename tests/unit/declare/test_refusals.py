"""What is refused where it is written, before anything is frozen; and what leaves its notes all the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

import pytest

from saga_choreo import Agent, SagaOutcome
from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import ChoreographyStep, all_of
from saga_choreo.runtime.declare.declarations import Declarations
from saga_choreo.runtime.declare.decorators import on_event, publish_event
from saga_choreo.runtime.declare.options import StepOptions, seconds_of
from saga_choreo.runtime.declare.results import Pending
from tests.unit.declare.support import MailSent, OrderCreated, StockReserved


async def handle(order: OrderCreated) -> None: ...


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"deadline_s": -1.0}, {"concurrency": 0}, {"rate_per_s": float("nan")}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(ValueError, match=f"^{name} is "):
        StepOptions(**options)


def test_durations_are_seconds_or_timedeltas() -> None:
    assert seconds_of("timeout", timedelta(minutes=1)) == 60.0
    assert seconds_of("timeout", 1) == 1.0
    with pytest.raises(ValueError, match=r"timeout is datetime.timedelta\(0\); give seconds"):
        Declarations("shop").step(timeout=timedelta(0))(handle)


def test_decorators_that_say_nothing_or_two_joins_are_refused() -> None:
    with pytest.raises(DefinitionError, match="on_event was given 0 things"):
        on_event()
    with pytest.raises(DefinitionError, match="on_event was given 2 things to react to, 1 of them joins"):
        on_event(all_of(OrderCreated, MailSent), StockReserved)
    with pytest.raises(DefinitionError, match="publish_event was given no event"):
        publish_event()


def test_a_callable_that_can_carry_no_notes_is_refused() -> None:
    class Shop:
        async def handle(self, order: OrderCreated) -> None: ...

    with pytest.raises(DefinitionError, match="cannot be decorated: it is no plain function"):
        on_event(OrderCreated)(Shop().handle)


def test_a_wrapper_shares_the_notes_and_the_signature_of_what_it_wraps() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    @publish_event("mail.sent")
    @logged
    @on_event(StockReserved)
    async def send(stock: StockReserved) -> Any: ...

    definition = Declarations("shop").step(send).definition
    assert (definition.reads, definition.publishes) == ((StockReserved.event,), (MailSent.event,))


@pytest.mark.parametrize("written", ["OrderCreated[", "OrderCreated['x']", "OrderCreated.missing"])
def test_an_annotation_that_cannot_be_evaluated_is_named(written: str) -> None:
    async def broken(order: Any) -> None: ...

    broken.__annotations__["order"] = written
    with pytest.raises(DefinitionError, match=r"an annotation of .*broken' cannot be evaluated"):
        _ = Declarations("shop").step(broken).definition


def test_a_service_name_that_is_not_valid_is_refused() -> None:
    with pytest.raises(ValueError, match="service name 'Shop!' is not valid"):
        Declarations("Shop!")


def test_steps_and_pending_show_what_they_are() -> None:
    assert repr(Declarations("shop").step(handle)) == "<Step 'handle'>"
    assert repr(Pending()) == "Pending()"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ({"retry": 5}, r"retry is 5; give a Retry"),
        ({"undo_retry": "often"}, r"the compensation's retry is 'often'"),
        ({"breaker": True}, r"breaker is True; give a Breaker"),
        ({"lock": "customer"}, r"lock is 'customer'; give a function"),
    ],
)
def test_a_policy_that_is_none_is_refused_when_it_is_said_and_not_at_the_first_failure(said: dict[str, Any], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        StepOptions(**said)


def test_any_number_of_events_is_no_parameter() -> None:
    async def gather(order: OrderCreated, *more: StockReserved) -> None: ...

    with pytest.raises(DefinitionError, match=r"parameter 'more' of .* takes any number.*one parameter per event"):
        _ = Declarations("shop").step(gather).definition


@pytest.mark.parametrize("wrong", [int, 7, object()])
def test_what_is_no_event_is_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match="is no event; give a subclass of Event, or a name"):
        ChoreographyStep("charge").on_event(wrong)


def test_what_is_declared_after_the_agent_was_checked_is_refused() -> None:
    agent = Agent("shop", saga="shop")

    @agent.step
    async def reserve(order: OrderCreated) -> StockReserved: ...

    agent.freeze()
    with pytest.raises(DefinitionError, match=r"step 'send' is declared after agent 'shop' was checked or opened"):

        @agent.step("send")
        async def send(stock: StockReserved) -> None: ...

    with pytest.raises(DefinitionError, match="starts_on is declared after agent 'shop'"):
        agent.starts_on(OrderCreated, key=lambda order: order.order_id)
    with pytest.raises(DefinitionError, match=r"compensation 'release' of step 'reserve' is declared after its agent was checked"):
        reserve.compensation(release)


async def release() -> None: ...


def test_a_callback_that_could_not_be_called_at_the_first_end_is_refused() -> None:
    agent = Agent("shop", saga="shop")

    def told(outcome: SagaOutcome) -> None: ...

    async def told_nothing() -> None: ...

    with pytest.raises(DefinitionError, match=r"on_outcome .*told' is not an `async def`"):
        agent.on_outcome(told)  # type: ignore[type-var]  # wrong on purpose
    with pytest.raises(DefinitionError, match=r"on_outcome .*told_nothing' cannot take one argument .*; give it one"):
        agent.on_outcome(told_nothing)  # type: ignore[type-var]  # wrong on purpose
