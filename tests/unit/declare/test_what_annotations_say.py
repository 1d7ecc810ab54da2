"""Annotations, decorators and the builder say the same thing and make the same value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Join, Reads, Split, all_of, any_of, one_of
from saga_choreo.model.event import Event
from saga_choreo.runtime.context import StepContext
from saga_choreo.runtime.declare.declarations import Declarations
from saga_choreo.runtime.declare.decorators import OnEvent, PublishEvent, on_event, publish_event, with_compensation
from saga_choreo.runtime.declare.results import Chosen, Pending
from tests.unit.declare.support import (
    MailSent,
    OrderCreated,
    PaymentCharged,
    PaymentRefunded,
    PaymentTimedOut,
    Receipt,
    StockRefused,
    StockReserved,
)


async def plain(order: OrderCreated) -> StockReserved: ...
async def joined(order: OrderCreated, stock: StockReserved, ctx: StepContext) -> None: ...
async def either(a: StockReserved | None, b: StockRefused | None) -> MailSent: ...
async def exclusive(x: StockReserved | StockRefused) -> MailSent: ...
async def choosing(order: OrderCreated) -> StockReserved | StockRefused: ...
async def fanning(order: Annotated[OrderCreated, "the order"]) -> tuple[StockRefused, StockReserved, MailSent]: ...
async def some(order: OrderCreated) -> Chosen[StockReserved | StockRefused | MailSent]: ...
async def nothing(order: OrderCreated): ...  # type: ignore[no-untyped-def]
async def waiting(order: OrderCreated) -> PaymentCharged | Pending: ...
async def waiting_for_nothing(order: OrderCreated) -> Pending | None: ...


def step(name: str) -> ChoreographyStep:
    return ChoreographyStep(name).owned_by("shop")


SAME: list[tuple[Callable[..., Any], ChoreographyStep]] = [
    (plain, step("plain").on_event(OrderCreated).publish_event(StockReserved)),
    (joined, step("joined").on_event(all_of(StockReserved, OrderCreated))),
    (either, step("either").on_event(any_of(StockReserved, StockRefused)).publish_event(MailSent)),
    (exclusive, step("exclusive").on_event(one_of(StockRefused, StockReserved)).publish_event(MailSent)),
    (choosing, step("choosing").on_event(OrderCreated).publish_event(StockReserved, StockRefused, split=Split.ONE)),
    (fanning, step("fanning").on_event(OrderCreated).publish_event(StockReserved, StockRefused, MailSent)),
    (some, step("some").on_event(OrderCreated).publish_event(StockReserved, StockRefused, MailSent, split=Split.SOME)),
    (nothing, step("nothing").on_event(OrderCreated)),
]


@pytest.mark.parametrize(("handler", "built"), SAME, ids=[built.name for _, built in SAME])
def test_annotations_make_the_step_that_the_builder_makes(handler: Callable[..., Any], built: ChoreographyStep) -> None:
    shop = Declarations("shop")
    declared = shop.step(handler)

    assert declared.definition == built
    assert [bound.definition for bound in shop.freeze(None)] == [built]
    assert Choreography("c").step(declared.definition).definition == Choreography("c").step(built).definition


@pytest.mark.parametrize("built", [built for _, built in SAME], ids=[built.name for _, built in SAME])
def test_decorators_make_the_step_that_the_builder_makes(built: ChoreographyStep) -> None:
    async def handle(ctx: StepContext) -> Any: ...

    joins: dict[Join, Callable[..., Reads]] = {Join.ALL: all_of, Join.ANY: any_of, Join.ONE: one_of}
    on_event(joins[built.join](*reversed(built.reads)))(handle)
    if built.publishes:
        publish_event(*reversed(built.publishes), split=built.split)(handle)
    declared = Declarations("shop").step(built.name)(handle)

    assert declared.definition == built
    assert Choreography("c").step(declared.definition).definition == Choreography("c").step(built).definition


def test_a_type_alias_says_what_it_stands_for() -> None:
    alias: Any = TypeAliasType("alias", StockReserved | StockRefused)

    async def handle(x: Any) -> Any: ...

    handle.__annotations__ = {"x": alias, "return": alias}
    definition = Declarations("shop").step(handle).definition
    assert (definition.join, definition.split) == (Join.ONE, Split.ONE)
    assert definition.reads == definition.publishes == (StockRefused.event, StockReserved.event)


@pytest.mark.parametrize("handler", [waiting, waiting_for_nothing])
def test_pending_is_no_event_of_an_external_step(handler: Callable[..., Any]) -> None:
    built = step(handler.__name__).on_event(OrderCreated).kind(external=True)
    published = built.publish_event(PaymentCharged) if handler is waiting else built
    assert Declarations("shop").step(external=True)(handler).definition == published


def test_pending_of_a_step_that_is_not_external_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"step 'waiting': it may return Pending.*add external=True"):
        _ = Declarations("shop").step(waiting).definition


def test_decorators_alone_say_all_that_the_builder_says() -> None:
    shop = Declarations("shop")

    @with_compensation("payment.refunded", external=True)
    @shop.step("charge-payment", external=True, pivot=False, retriable=True, optional=True, deadline=3, on_deadline=PaymentTimedOut)
    @on_event(any_of("stock.reserved", StockRefused))
    @publish_event("payment.charged", version=2)
    async def charge(ctx: StepContext) -> Any: ...

    @charge.compensation
    async def refund(ctx: StepContext) -> PaymentRefunded: ...

    built = (
        step("charge-payment")
        .on_event(any_of("stock.reserved", "stock.refused"))
        .publish_event(PaymentCharged)
        .with_compensation("payment.refunded", external=True)
        .on_deadline("payment.timed_out")
        .kind(external=True, retriable=True, optional=True)
    )
    assert charge.definition == built
    assert charge.options.deadline_s == 3.0


DECORATORS: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "reads a": OnEvent("stock.reserved"),
    "reads b": on_event(StockRefused),
    "joins": on_event(any_of(StockReserved, StockRefused)),
    "publishes a": publish_event(MailSent),
    "publishes b": PublishEvent(PaymentCharged, split=Split.ONE),
    "undo": with_compensation(PaymentRefunded),
}


@given(order=st.permutations(sorted(DECORATORS)), step_at=st.integers(0, len(DECORATORS)))
def test_the_order_of_decorators_does_not_matter(order: list[str], step_at: int) -> None:
    shop = Declarations("shop")

    async def handle(ctx: StepContext) -> Any: ...

    decorated: Any = handle
    for name in order[:step_at]:
        decorated = DECORATORS[name](decorated)
    decorated = declared = shop.step("handle", pivot=True)(decorated)
    for name in order[step_at:]:
        decorated = DECORATORS[name](decorated)

    @declared.compensation
    async def undo(ctx: StepContext) -> PaymentRefunded | None: ...

    built = (
        step("handle")
        .on_event(any_of(StockReserved, StockRefused))
        .publish_event(MailSent, PaymentCharged, split=Split.ONE)
        .with_compensation(PaymentRefunded)
        .kind(pivot=True)
    )
    assert decorated is declared
    assert declared.definition == built


def test_string_annotations_find_names_that_are_local_where_the_step_is_defined() -> None:
    class LocalEvent(Event, name="local.event"):
        pass

    shop = Declarations("shop")

    @shop.step
    async def handle(event: LocalEvent, ctx: StepContext) -> LocalResult | MailSent: ...

    class LocalResult(Event, name="local.result"):
        pass

    with pytest.raises(DefinitionError, match=r"step 'handle'.*'LocalResult'.*not known there.*TYPE_CHECKING"):
        _ = handle.definition

    @shop.step("handle-late")
    async def handle_late(event: LocalEvent, ctx: StepContext) -> LocalResult | MailSent: ...

    assert handle_late.definition.publishes == (LocalResult.event, MailSent.event)


async def optional_result(order: OrderCreated) -> StockReserved | None: ...
async def mixed(order: OrderCreated, stock: StockReserved | None) -> None: ...
async def mixed_union(order: OrderCreated, x: StockReserved | StockRefused) -> None: ...
async def union_or_none(x: StockReserved | StockRefused | None) -> None: ...
async def lone_optional(x: StockReserved | None) -> None: ...
async def twice(a: OrderCreated, b: OrderCreated) -> None: ...
async def text_result(order: OrderCreated) -> str: ...
async def open_tuple(order: OrderCreated) -> tuple[StockReserved, ...]: ...
async def tuple_in_union(order: OrderCreated) -> tuple[StockReserved, StockRefused] | MailSent: ...
async def same_twice(order: OrderCreated) -> tuple[StockReserved, StockReserved]: ...
async def unknown_parameter(order: OrderCreated, limit: int) -> None: ...
async def model_parameter(order: Receipt) -> None: ...
async def no_event(ctx: StepContext) -> None: ...


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (optional_result, r"returns .*an event or None is not a result.*optional=True"),
        (mixed, r"mixes ways to join.*`a: A, b: B` \(all_of\)"),
        (mixed_union, "mixes ways to join"),
        (union_or_none, "mixes a union with None"),
        (lone_optional, r"write `a: A` \(one event\)"),
        (twice, r"takes order.created v1 twice"),
        (text_result, "'str' is no Event class"),
        (open_tuple, "no Event class"),
        (tuple_in_union, r"Chosen\[A \| B\]"),
        (same_twice, "stands there twice"),
        (unknown_parameter, r"parameter 'limit' of 'unknown_parameter' is 'int', which nothing fills"),
        (model_parameter, "parameter 'order'.*annotate it as an Event class"),
        (no_event, "it reacts to nothing"),
    ],
)
def test_an_annotation_that_says_nothing_clear_is_refused_with_advice(handler: Callable[..., Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=f"step '{handler.__name__}': .*{message}"):
        _ = Declarations("shop").step(handler).definition


def test_a_sync_function_is_refused_when_it_is_decorated() -> None:
    def handle(order: OrderCreated) -> None: ...

    with pytest.raises(DefinitionError, match=r"handle' is not an `async def`.*asyncio.to_thread"):
        Declarations("shop").step(handle)  # type: ignore[arg-type]


def test_a_function_name_that_is_no_step_name_is_refused() -> None:
    async def _handle(order: OrderCreated) -> None: ...

    with pytest.raises(DefinitionError, match="step name '_handle' is not valid"):
        Declarations("shop").step(_handle)


def test_all_contradictions_of_all_steps_are_reported_at_once() -> None:
    shop = Declarations("shop")

    @shop.step(own_transaction=True, external=True)
    @on_event(StockReserved)
    @publish_event(MailSent)
    @with_compensation("payment.refunded")
    async def first(order: OrderCreated) -> StockReserved: ...

    @shop.step(unsafe_external=True, on_deadline=PaymentTimedOut)
    @on_event(all_of(OrderCreated, StockReserved))
    @on_event(any_of(OrderCreated, StockReserved))
    async def second(ctx: StepContext) -> None: ...

    with pytest.raises(DefinitionError) as caught:
        shop.freeze(None)
    faults = caught.value.findings
    assert [f.split(":")[0] for f in faults] == ["step 'first'"] * 4 + ["step 'second'"] * 3
    for expected in ("what it reacts to is said in two ways", "what it publishes is said", "no handler for it", "own_transaction"):
        assert any(expected in fault for fault in faults[:4])
    for expected in (
        "how its events join is said in two ways",
        "unsafe_external",
        "'payment.timed_out v1' is published at its deadline",
    ):
        assert any(expected in fault for fault in faults[4:])


def test_several_plain_events_without_a_join_are_refused() -> None:
    shop = Declarations("shop")

    @shop.step
    @on_event(OrderCreated, StockReserved)
    async def handle(ctx: StepContext) -> None: ...

    with pytest.raises(DefinitionError, match="nothing says how they join"):
        shop.freeze(None)
