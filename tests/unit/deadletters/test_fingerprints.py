"""The same fault has one fingerprint; another fault has another one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made import NOW_MS, PLAN, record

from saga_choreo.model.record import Failure, Row
from saga_choreo.model.states import Parked, State
from saga_choreo.ports import Quarantined
from saga_choreo.runtime.deadletters.letter import letter_of_quarantined, letter_of_step
from saga_choreo.runtime.failures import failure_of, normalised, noted, stamped
from saga_choreo.runtime.operations import Broke, Ran


def _raised(depth: int, text: str = "no") -> Exception:
    try:
        _deeper(depth, text)
    except ValueError as error:
        return error
    raise AssertionError


def _deeper(depth: int, text: str) -> None:
    if depth:
        _deeper(depth - 1, text)
        return
    raise ValueError(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 7712 not found", "order 9 not found"),
        ("saga 019a2b3c-1111-7000-8000-0123456789ab is late", "saga 019a2b3c-2222-7000-8000-0123456789ab is late"),
        ("no key 'ORDER-1' here", "no key 'B' here"),
        ('no key "ORDER-1" here', 'no key "B" here'),
        ("object at 0x7f0011aabbcc", "object at 0x7f0011aabbdd"),
        ("amount 12.50 is over 10,000", "amount 3 is over 7"),
    ],
)
def test_what_differs_between_two_of_the_same_fault_is_left_out(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


def test_words_are_not_left_out() -> None:
    assert normalised("the bank is down") == "the bank is down"
    assert normalised("the bank is down") != normalised("the post is down")
    assert normalised("deadbeef") == "deadbeef", "a word of letters only is a word"


def test_a_stack_has_functions_only_and_no_line_of_this_toolkit() -> None:
    failure = failure_of(_raised(1))
    here = __name__
    assert failure.kind == "ValueError"
    assert failure.stack.splitlines() == [f"{here}:_raised", f"{here}:_deeper", f"{here}:_deeper"]
    assert failure_of(_raised(1, "other words")).stack == failure.stack
    assert failure_of(_raised(2)).stack != failure.stack


def test_a_cause_is_part_of_the_stack_and_a_circle_of_causes_ends() -> None:
    outer, inner = RuntimeError("outer"), _raised(0)
    outer.__cause__ = inner
    inner.__cause__ = outer
    assert failure_of(outer).stack.splitlines()[0] == "caused by ValueError"
    hidden = RuntimeError("hidden")
    hidden.__context__, hidden.__suppress_context__ = _raised(0), True
    assert failure_of(hidden).stack == ""


def test_an_exception_of_a_module_is_named_with_it() -> None:
    class OwnError(Exception):
        pass

    assert failure_of(OwnError()).kind.endswith("<locals>.OwnError")
    assert failure_of(OwnError()).kind.startswith(__name__)


def test_a_hundred_frames_are_cut_to_the_last() -> None:
    assert len(failure_of(_raised(100)).stack.splitlines()) == 20


def test_the_first_failure_is_remembered_until_it_works() -> None:
    failure = Failure("ValueError")
    first = noted(record(), failure, 10)
    assert first is not None
    again = noted(record(error="ValueError: no", failure=first), failure, 20)
    assert again is not None
    assert (again.first_ms, again.last_ms) == (10, 20)
    anew = noted(record(error="", failure=first), failure, 30)
    assert anew is not None
    assert anew.first_ms == 30
    assert noted(record(failure=first), None, 40) is first


def test_a_failure_is_stamped_with_its_agent_and_nothing_else_is() -> None:
    answer = stamped(Broke("no", failure=Failure("ValueError")), "a1", "0.1.0")
    assert answer.failure is not None
    assert (answer.failure.agent, answer.failure.version) == ("a1", "0.1.0")
    assert stamped(Ran(), "a1", "0.1.0") == Ran()


def test_parked_steps_are_grouped_by_type_stack_and_step_not_by_words() -> None:
    row = Row(State.WAITING, Parked.PARKED, done_in=1, attempt=3)
    one = record(row, error="ValueError: order 1", failure=Failure("ValueError", "shop:charge", 1, 2, "a", "v"))
    group = letter_of_step(one, PLAN).group
    assert letter_of_step(replace(one, error="ValueError: the other"), PLAN).group == group
    for other in (
        replace(one, failure=Failure("TypeError", "shop:charge")),
        replace(one, failure=Failure("ValueError", "shop:other")),
        replace(one, row=row._replace(state=State.COMPENSATING)),
        replace(one, service="other"),
    ):
        assert letter_of_step(other, PLAN).group != group
    assert len(group) == 12


def test_a_step_that_parked_before_failures_were_kept_is_shown_all_the_same() -> None:
    row = Row(State.WAITING, Parked.PARKED, done_in=1, attempt=3)
    made = letter_of_step(record(row, error="RuntimeError: the bank is down", tried_since_ms=5), None)
    assert (made.code, made.first_ms, made.last_ms, made.step) == ("RuntimeError", 5, NOW_MS, "#0")


def test_a_message_that_nobody_can_decode_is_shown_with_what_its_headers_say() -> None:
    made = Quarantined(
        service="shop", code="invalid_json", detail="no", channel="nowhere", headers={"CE-SagaID": "x"}, body=b"", received_ms=7
    )
    shown = letter_of_quarantined(replace(made, number=4))
    assert (shown.id, shown.saga_id, shown.step, shown.last_ms) == ("m4", "x", "", 7)
