"""The demo's judge, with ledgers made by hand: the right ones pass, and every way of being wrong is seen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from saga_choreo.demo.judge import DO, UNDO, Effect, Verdict, judge
from saga_choreo.demo.story import CHAIN, refuser

OWNER = {step.name: step.service for step in CHAIN}
RESERVE, CHARGE, BOOK, CONFIRM = (step.name for step in CHAIN)
ALL_DONE = [(RESERVE, DO), (CHARGE, DO), (BOOK, DO), (CONFIRM, DO)]
PAYMENT_REFUSED = [(RESERVE, DO), (RESERVE, UNDO)]
SHIPPING_REFUSED = [(RESERVE, DO), (CHARGE, DO), (CHARGE, UNDO), (RESERVE, UNDO)]


def _ledger(course: Sequence[tuple[str, str]], saga: str = "s1") -> list[Effect]:
    """One row after the other, each in the database of its step's owner."""
    return [Effect(OWNER[step], saga, step, effect, at_ns) for at_ns, (step, effect) in enumerate(course)]


def _judged(course: Sequence[tuple[str, str]], refused_by: str = "", state: str = "") -> Verdict:
    reported = state or ("compensated" if refused_by else "completed")
    return judge(CHAIN, {"s1": refused_by}, {"s1": reported}, _ledger(course))


def _said(verdict: Verdict) -> str:
    assert verdict.wrong == 1
    return "; ".join(verdict.faults["s1"])


@pytest.mark.parametrize(
    ("course", "refused_by"),
    [(ALL_DONE, ""), (PAYMENT_REFUSED, CHARGE), (SHIPPING_REFUSED, BOOK), ([], RESERVE)],
    ids=["completed", "refused by payment", "refused by shipping", "refused by inventory"],
)
def test_a_ledger_as_it_should_be_is_right(course: list[tuple[str, str]], refused_by: str) -> None:
    assert _judged(course, refused_by) == Verdict({}, 0)


def test_sagas_are_judged_each_by_itself() -> None:
    rows = [*_ledger(ALL_DONE, "s1"), *_ledger(PAYMENT_REFUSED, "s2"), *_ledger(ALL_DONE[:2], "s3")]
    verdict = judge(
        CHAIN, {"s1": "", "s2": CHARGE, "s3": ""}, {"s1": "completed", "s2": "compensated", "s3": "completed"}, reversed(rows)
    )
    assert list(verdict.faults) == ["s3"]


def test_a_missing_effect_is_wrong() -> None:
    assert _said(_judged(ALL_DONE[:3])) == "do of confirm-order: 0 times instead of 1"


def test_a_saga_without_any_effect_is_wrong() -> None:
    assert _said(_judged([])).count("0 times instead of 1") == 4


def test_a_missing_undo_is_wrong() -> None:
    assert _said(_judged(PAYMENT_REFUSED[:1], CHARGE)) == "undo of reserve-stock: 0 times instead of 1"


def test_an_effect_done_twice_is_wrong_and_counted_as_repeated() -> None:
    verdict = _judged([(RESERVE, DO), *ALL_DONE])
    assert "do of reserve-stock: 2 times instead of 1" in _said(verdict)
    assert verdict.repeated_effects == 1


def test_an_undo_done_twice_is_wrong_and_counted_as_repeated() -> None:
    verdict = _judged([*PAYMENT_REFUSED, (RESERVE, UNDO), (RESERVE, UNDO)], CHARGE)
    assert "undo of reserve-stock: 3 times instead of 1" in _said(verdict)
    assert verdict.repeated_effects == 2


def test_an_undo_in_a_completed_saga_is_wrong() -> None:
    assert "undo of book-shipment: 1 times instead of 0" in _said(_judged([*ALL_DONE, (BOOK, UNDO)]))


def test_an_effect_of_the_step_that_refused_is_wrong() -> None:
    said = _said(_judged([(RESERVE, DO), (CHARGE, DO), (RESERVE, UNDO)], CHARGE))
    assert said == "do of charge-payment: 1 times instead of 0"


def test_a_step_before_its_cause_is_wrong() -> None:
    assert _said(_judged([(CHARGE, DO), (RESERVE, DO), *ALL_DONE[2:]])) == "do of charge-payment came before do of reserve-stock"


def test_a_step_before_a_distant_cause_is_wrong() -> None:
    assert "do of confirm-order came before do of reserve-stock" in _said(_judged([(CONFIRM, DO), *ALL_DONE[:3]]))


def test_an_undo_before_the_undo_of_what_came_after_it_is_wrong() -> None:
    course = [(RESERVE, DO), (CHARGE, DO), (RESERVE, UNDO), (CHARGE, UNDO)]
    assert _said(_judged(course, BOOK)) == "undo of reserve-stock came before undo of charge-payment"


def test_an_undo_before_its_own_do_is_wrong() -> None:
    assert _said(_judged([(RESERVE, UNDO), (RESERVE, DO)], CHARGE)) == "undo of reserve-stock came before do of reserve-stock"


def test_an_undo_while_what_came_after_is_not_done_yet_is_wrong() -> None:
    course = [(RESERVE, DO), (RESERVE, UNDO), (CHARGE, DO), (CHARGE, UNDO)]
    assert "undo of reserve-stock came before do of charge-payment" in _said(_judged(course, BOOK))


def test_an_undo_without_a_do_is_wrong() -> None:
    assert "reserve-stock was undone and never done" in _said(_judged([(RESERVE, UNDO)], CHARGE))


def test_effects_at_the_same_nanosecond_are_in_no_order_and_wrong() -> None:
    rows = [Effect(OWNER[step], "s1", step, DO, 7) for step, _ in ALL_DONE]
    assert "do of charge-payment came before do of reserve-stock" in _said(judge(CHAIN, {"s1": ""}, {"s1": "completed"}, rows))


def test_an_effect_in_another_services_database_is_wrong() -> None:
    rows = _ledger(ALL_DONE)
    rows[1] = Effect("shipping", "s1", CHARGE, DO, 1)
    said = _said(judge(CHAIN, {"s1": ""}, {"s1": "completed"}, rows))
    assert said == "do of charge-payment is in the database of shipping, which does not own the step"


def test_a_step_nobody_knows_is_wrong() -> None:
    rows = [*_ledger(ALL_DONE), Effect("order", "s1", "send-flowers", DO, 99)]
    assert _said(judge(CHAIN, {"s1": ""}, {"s1": "completed"}, rows)) == "do of send-flowers: 1 times instead of 0"


def test_a_saga_that_nobody_started_is_wrong() -> None:
    verdict = judge(CHAIN, {}, {}, _ledger(ALL_DONE))
    assert _said(verdict) == "nobody started this saga, and it has 4 effects"


def test_a_saga_that_did_not_end_is_wrong_although_its_effects_are_right() -> None:
    verdict = judge(CHAIN, {"s1": ""}, {}, _ledger(ALL_DONE))
    assert _said(verdict) == "it did not end; it had to end completed"


def test_another_reported_end_than_the_ledger_shows_is_wrong() -> None:
    assert _said(_judged(ALL_DONE, state="compensated")) == "it is reported as compensated; it had to end completed"
    assert _said(_judged(SHIPPING_REFUSED, BOOK, state="failed")) == "it is reported as failed; it had to end compensated"


def test_every_nth_saga_is_refused_by_payment_and_shipping_in_turn() -> None:
    assert [refuser(number, 2) for number in range(1, 9)] == ["", CHARGE, "", BOOK, "", CHARGE, "", BOOK]
    assert {refuser(number, 0) for number in range(1, 50)} == {""}
