"""Which records of a service a message concerns, and as what; a message that names no edge of the graph concerns none."""

from __future__ import annotations

import pytest
from planned import BEGUN, CHOOSE, JOIN, LAST, LEFT, PLAN

from saga_choreo.core.emissions import Message
from saga_choreo.core.facts import AbortCame, CancelCame, CancelRequested, ClearCame, DoneCame, Fact, OutcomeCame, SkipCame
from saga_choreo.core.graph import plan_of
from saga_choreo.core.routing import facts_for
from saga_choreo.model.choreography import Choreography, ChoreographyStep, Undo
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN
from saga_choreo.model.states import Cause, Outcome

SINK = [(MessageKind.DONE, DoneCame), (MessageKind.SKIP, SkipCame)]


def at(service: str, message: Message, *, is_origin: bool = False) -> list[tuple[int, Fact]]:
    return list(facts_for(message, PLAN, service, is_origin=is_origin))


@pytest.mark.parametrize(("kind", "came"), SINK)
def test_an_event_concerns_the_readers_that_the_service_owns_each_by_its_own_edge(
    kind: MessageKind, came: type[DoneCame | SkipCame]
) -> None:
    y = Message(kind, CHOOSE, event=1)
    assert at("two", y) == [(LEFT, came(2))]
    assert at("three", y) == [(JOIN, came(1))]
    assert at("one", y) == []
    done = Message(kind, LEFT, event=0)
    assert at("two", done) == [(LAST, came(1))]
    assert at("three", done) == [(JOIN, came(2))]
    assert at("two", Message(kind, ORIGIN, event=0)) == []
    assert at("one", Message(kind, ORIGIN, event=0)) == [(CHOOSE, came(1))]
    found = [*at("two", y), *at("three", y), *at("two", done), *at("one", Message(kind, ORIGIN, event=0))]
    assert {type(fact) for _, fact in found} == {came}, "facts of two kinds are equal when they carry the same"


def test_an_event_number_that_nobody_reads_concerns_nobody() -> None:
    assert at("three", Message(MessageKind.DONE, JOIN, event=0)) == []
    assert at("three", Message(MessageKind.DONE, CHOOSE, event=7)) == []


@pytest.mark.parametrize(("kind", "came"), SINK)
def test_a_last_step_reports_to_the_sink_where_the_saga_was_started(kind: MessageKind, came: type[DoneCame | SkipCame]) -> None:
    assert at("one", Message(kind, JOIN, "origin"), is_origin=True) == [(ORIGIN, came(1))]
    assert at("one", Message(kind, LAST, "origin"), is_origin=True) == [(ORIGIN, came(2))]
    assert at("one", Message(kind, JOIN, "origin")) == []
    assert at("one", Message(kind, LEFT, "origin"), is_origin=True) == []


@pytest.mark.parametrize("kind", [MessageKind.DONE, MessageKind.SKIP])
def test_the_origin_reports_nothing_to_its_own_sink(kind: MessageKind) -> None:
    alone = plan_of(Choreography("alone").starts_with(BEGUN).step(ChoreographyStep("a", "one", reads=(BEGUN,), undo=Undo.LOCAL)))
    assert facts_for(Message(kind, ORIGIN, "origin"), alone, "one", is_origin=True) == ()
    assert facts_for(Message(kind, 0, "origin"), alone, "one", is_origin=True) != ()


def test_a_clear_concerns_its_target_and_keeps_the_debt() -> None:
    assert at("one", Message(MessageKind.CLEAR, LEFT, target=CHOOSE)) == [(CHOOSE, ClearCame(2))]
    assert at("one", Message(MessageKind.CLEAR, JOIN, target=CHOOSE, debt=True)) == [(CHOOSE, ClearCame(1, True))]
    assert at("two", Message(MessageKind.CLEAR, JOIN, target=CHOOSE)) == []
    assert at("one", Message(MessageKind.CLEAR, LAST, target=CHOOSE)) == []


def test_a_clear_of_a_first_step_concerns_the_origin() -> None:
    clear = Message(MessageKind.CLEAR, CHOOSE, "origin", target=ORIGIN, debt=True)
    assert at("one", clear, is_origin=True) == [(ORIGIN, ClearCame(1, True))]
    assert at("one", clear) == []
    assert at("one", Message(MessageKind.CLEAR, JOIN, "origin", target=ORIGIN), is_origin=True) == []


def test_a_clear_of_the_origin_concerns_a_last_step() -> None:
    assert at("two", Message(MessageKind.CLEAR, ORIGIN, target=LAST)) == [(LAST, ClearCame(1))]
    assert at("two", Message(MessageKind.CLEAR, ORIGIN, target=LEFT)) == []


def test_an_abort_concerns_every_step_of_the_service_and_the_origin_unless_it_said_so_itself() -> None:
    abort = Message(MessageKind.ABORT, JOIN, cause=Cause.TIMED_OUT)
    came = AbortCame(Cause.TIMED_OUT)
    assert at("two", abort) == [(LAST, came), (LEFT, came)]
    assert at("two", abort, is_origin=True) == [(LAST, came), (LEFT, came), (ORIGIN, came)]
    assert at("two", abort._replace(source=ORIGIN), is_origin=True) == [(LAST, came), (LEFT, came)]
    assert at("elsewhere", abort._replace(source=CHOOSE), is_origin=True) == [(ORIGIN, came)]


def test_a_cancel_and_an_outcome_concern_every_step_of_the_service_but_not_the_origin() -> None:
    cancel = Message(MessageKind.CANCEL, ORIGIN, cause=Cause.TIMED_OUT)
    assert at("two", cancel, is_origin=True) == [(LAST, CancelCame(Cause.TIMED_OUT)), (LEFT, CancelCame(Cause.TIMED_OUT))]
    outcome = Message(MessageKind.OUTCOME, ORIGIN, outcome=Outcome.FAILED, cause=Cause.REFUSED)
    came = OutcomeCame(Outcome.FAILED, Cause.REFUSED)
    assert at("two", outcome, is_origin=True) == [(LAST, came), (LEFT, came)]


def test_a_request_to_cancel_concerns_the_origin_only() -> None:
    asked = Message(MessageKind.CANCEL_REQUEST, JOIN)
    assert at("two", asked, is_origin=True) == [(ORIGIN, CancelRequested())]
    assert at("two", asked) == []


@pytest.mark.parametrize("kind", [MessageKind.UNDONE, MessageKind.PARKED, MessageKind.RESOLVED])
def test_what_is_told_to_people_concerns_no_record(kind: MessageKind) -> None:
    assert at("two", Message(kind, JOIN), is_origin=True) == []
