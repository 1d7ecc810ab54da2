"""A choreography from announcements: who counts, when it is complete, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saga_choreo import Agent, Choreography, ChoreographyStep, DefinitionError, Event, EventRef, NotReady
from saga_choreo.core.graph import plan_of
from saga_choreo.runtime.assembly import Announcement, Assembly
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.timing import without_handler_ms


class Ordered(Event, name="shop.ordered"):
    pass


class Reserved(Event, name="stock.reserved"):
    pass


OPEN = Choreography("shop", version=2).starts_with(Ordered, participants={"inventory", "payment"})
RESERVE = ChoreographyStep("reserve").on_event(Ordered).publish_event(Reserved).with_compensation().owned_by("inventory")
PAY = ChoreographyStep("pay").on_event(Reserved).with_compensation("payment.refunded").owned_by("payment").kind(external=True)
COUNT = ChoreographyStep("count").on_event(Reserved).with_compensation().owned_by("inventory")


def says(*steps: ChoreographyStep, release: int = 0, service: str = "") -> Announcement:
    return Announcement(choreography="shop", service=service or steps[0].owner, steps=steps, release=release)


def heard(*announcements: Announcement) -> Assembly:
    assembly = Assembly(OPEN)
    for one in announcements:
        assembly.hear(one)
    return assembly


def test_an_announcement_survives_the_wire() -> None:
    said = Announcement(choreography="shop", service="payment", steps=(PAY,), start=EventRef("shop.ordered"), agent="a1", release=7)
    assert said.notice().subject == "steps.shop.payment"
    assert Announcement.of(said.notice().body) == said


def test_nobody_announces_steps_of_others() -> None:
    with pytest.raises(ValueError, match="service 'payment' announces steps of others: 'reserve'"):
        Announcement.of(says(RESERVE, service="payment").notice().body)


def test_complete_announcements_make_the_hash_of_the_shared_object_in_any_order() -> None:
    shared = Choreography("shop", version=2).starts_with(Ordered).step(PAY, RESERVE)
    for order in ((says(RESERVE), says(PAY)), (says(PAY), says(RESERVE))):
        form = heard(*order).form
        assert form is not None
        assert (form, form.definition) == (shared, shared.definition)


def test_who_is_missing_is_named() -> None:
    problem = heard(says(RESERVE)).problem()
    assert isinstance(problem, NotReady)
    assert "'payment' has not announced any step" in str(problem)
    assert heard(says(RESERVE)).form is None


def test_the_last_word_of_a_service_counts_and_a_lower_release_does_not() -> None:
    assembly = heard(says(RESERVE, release=2), says(PAY))
    assert not assembly.hear(says(RESERVE, COUNT, release=1))
    assert not assembly.hear(says(RESERVE, release=3)), "the same steps are no news"
    assert assembly.hear(says(RESERVE, COUNT, release=3))
    assert assembly.form is not None
    assert [step.name for step in assembly.form.steps] == ["count", "pay", "reserve"]


def test_a_service_outside_the_closed_set_changes_nothing() -> None:
    stranger = ChoreographyStep("spy").on_event(Ordered).owned_by("stranger")
    assert not heard(says(RESERVE), says(PAY)).hear(says(stranger))


def test_all_findings_come_at_once_and_a_later_word_mends_them() -> None:
    lost = ChoreographyStep("pay").on_event("nobody.says").owned_by("payment")
    assembly = heard(says(RESERVE), says(lost))
    problem = assembly.problem()
    assert isinstance(problem, DefinitionError)
    assert {finding.split(":")[0] for finding in problem.findings} == {"ST3", "WF2"}
    assert assembly.form is None
    assembly.hear(says(PAY))
    assert assembly.problem() is None
    assert assembly.form is not None


def test_two_steps_of_one_name_are_named_with_their_services() -> None:
    other = ChoreographyStep("reserve").on_event(Reserved).with_compensation().owned_by("payment")
    problem = heard(says(RESERVE), says(other)).problem()
    assert isinstance(problem, DefinitionError)
    assert problem.findings == ("step 'reserve' is announced by 'inventory' and by 'payment'; give each its own name",)


def test_a_plan_keeps_the_deadline_it_was_asked_for() -> None:
    form = Choreography("kept").starts_with(Ordered).step(RESERVE)
    assert plan_of(form).choreography.deadline_after is None
    assert plan_of(form.deadline(minutes=1)).choreography.deadline_after == form.deadline(minutes=1).deadline_after


def test_foreign_definitions_are_remembered_up_to_a_bound() -> None:
    catalog = Catalog("inventory")
    for number in range(10_001):
        catalog.set_foreign(f"{number:032x}")
    assert not catalog.is_foreign(f"{0:032x}")
    assert len(catalog.fresh_foreign()) == 10_000
    catalog.forget_fresh(catalog.fresh_foreign())
    assert (catalog.fresh_foreign(), catalog.is_foreign(f"{1:032x}")) == ((), True)


def test_a_step_without_a_handler_here_is_looked_at_less_and_less_often() -> None:
    assert [without_handler_ms(age) for age in (0, 20_000, 10_000_000)] == [1_000, 5_000, 60_000]


def named(name: str, saga: Choreography | str | list[Choreography | str]) -> Agent:
    return Agent(name, saga=saga, broker="memory://", store="memory://")


async def reserve(order: Ordered) -> Reserved:
    return Reserved()


async def release() -> None: ...


def with_step(agent: Agent) -> Agent:
    agent.step(reserve).compensation(release)
    return agent


def test_an_agent_with_a_name_only_binds_its_handlers_to_any_definition_that_says_the_same() -> None:
    agent = with_step(named("inventory", "shop"))
    assert agent.freeze().all() == ()
    assert agent.own_steps() == (RESERVE,)
    part = agent._part  # pyright: ignore[reportPrivateUsage]
    assert part is not None
    form = Choreography("shop").starts_with(Ordered).step(RESERVE, PAY)
    assert list(part.fit(form).handlers) == [1]
    assert list(part.fit(replace(form, name="other")).handlers) == [], "nobody said that it takes part in that one"
    other = part.fit(Choreography("shop").starts_with(Ordered).step(RESERVE.kind(retriable=True), COUNT))
    assert list(other.handlers) == []
    assert other.misfits == (
        "step 'count' is ours there and has no handler here",
        "step 'reserve' is declared otherwise here (kinds: [] here, ['retriable'] there)",
    )


@pytest.mark.parametrize(
    ("agent", "fault"),
    [
        (named("inventory", "shop"), "it declares no step of choreography 'shop'"),
        (with_step(named("web", OPEN)), "it declares steps of choreography 'shop' and is not in its participants"),
        (named("payment", OPEN), "it is in the participants of choreography 'shop' and declares no step of it"),
        (with_step(named("inventory", ["shop", "other"])), "it takes part in 2 choreographies without their steps"),
        (
            with_step(named("inventory", Choreography("shop").starts_with(Ordered, participants={"payment"}).step(RESERVE))),
            "choreography 'shop' names the participants 'payment', and its steps are owned by 'inventory'",
        ),
    ],
)
def test_what_cannot_be_assembled_is_refused_when_the_agent_is_frozen(agent: Agent, fault: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        agent.freeze()
    assert any(finding.startswith(fault) for finding in refused.value.findings), refused.value.findings


def test_an_agent_alone_in_its_choreography_hears_at_its_start_what_is_wrong_with_it() -> None:
    agent = named("inventory", Choreography("shop").starts_with(Ordered, participants={"inventory"}))

    @agent.step("count")
    async def count(order: Ordered) -> None: ...

    with pytest.raises(DefinitionError, match="WF2: step 'count' cannot be undone"):
        agent.freeze()


def test_a_shared_choreography_and_one_to_be_assembled_go_together_in_one_agent() -> None:
    stay = ChoreographyStep("stay").on_event(Ordered).with_compensation().owned_by("inventory")
    agent = with_step(named("inventory", [Choreography("hotel").starts_with(Ordered).step(stay), "shop"]))

    async def back() -> None: ...

    @agent.step("stay")
    async def book(order: Ordered) -> None: ...

    book.compensation(back)
    assert [known.plan.choreography.name for known in agent.freeze().all()] == ["hotel"]
    assert agent.own_steps() == (RESERVE,)


def test_a_name_that_no_choreography_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="choreography name 'Order Processing' is not valid"):
        named("inventory", "Order Processing")
