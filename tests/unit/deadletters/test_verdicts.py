"""What would become of a dead letter: every verdict, and what a job does next."""

from __future__ import annotations

from typing import Any

import pytest
from made import NOW_MS, PLAN, envelope, job, letter, record, word

from saga_choreo.errors import DecodeError
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Row
from saga_choreo.model.states import Outcome, Parked, State
from saga_choreo.ports import ItemState, JobState
from saga_choreo.runtime.deadletters.letter import LetterKind
from saga_choreo.runtime.deadletters.preflight import Facts, Verdict, judge_message, judge_step
from saga_choreo.runtime.deadletters.progress import Budget, Over, Say, UnderWay, is_over, of_step, room, stops

DAY_MS = 86_400_000
OLD = saga_id_at(NOW_MS - 30 * DAY_MS, bytes(10))
DONE = record(Row(State.DONE, outcome=Outcome.COMPLETED))
PARKED = Row(State.WAITING, Parked.PARKED, done_in=1, attempt=2)


def facts(**changes: Any) -> Facts:
    return Facts(**{"now_ms": NOW_MS, "horizon_ms": 7 * DAY_MS, "clock_bound_ms": 7_200_000, "plan": PLAN} | changes)


@pytest.mark.parametrize(
    ("what", "said", "known", "verdict", "moves", "may_force"),
    [
        (letter(), envelope(), facts(), Verdict.READY, True, False),
        (letter(), envelope(), facts(records=[record()]), Verdict.READY, True, False),
        (letter(), envelope(), facts(records=[DONE]), Verdict.ENDED, True, False),
        (letter(), envelope(saga_id=OLD), facts(), Verdict.STALE, False, True),
        (letter(), envelope(saga_id=OLD), facts(records=[record()]), Verdict.READY, True, False),
        (letter(), envelope(saga_id=OLD, kind=MessageKind.ABORT, event=None), facts(), Verdict.READY, True, False),
        (letter(), envelope(saga_id=saga_id_at(NOW_MS + DAY_MS, bytes(10))), facts(), Verdict.FROM_THE_FUTURE, False, True),
        (letter(), DecodeError("invalid_json", "no"), facts(), Verdict.UNDECODABLE, False, True),
        (letter(), envelope(event=EventRef("other.event")), facts(), Verdict.INAPPLICABLE, False, True),
        (letter(), envelope(), facts(plan=None), Verdict.UNKNOWN_DEFINITION, False, False),
        (letter(state="waiting"), envelope(), facts(), Verdict.UNKNOWN_DEFINITION, False, False),
        (letter(state="archived"), envelope(), facts(), Verdict.PUT_ASIDE, False, False),
        (letter(state="resolved"), envelope(), facts(), Verdict.PUT_ASIDE, False, False),
        (letter(), envelope(), facts(is_busy=True), Verdict.BUSY, False, False),
    ],
)
def test_a_message_is_judged(what: Any, said: Any, known: Facts, verdict: Verdict, moves: bool, may_force: bool) -> None:
    judged = judge_message(what, said, known)
    assert (judged.verdict, judged.moves, judged.may_force) == (verdict, moves, may_force)
    assert judged.why or verdict is Verdict.READY, "what is in the way is always said"


@pytest.mark.parametrize(
    ("found", "known", "verdict"),
    [
        (record(PARKED), facts(), Verdict.READY),
        (record(PARKED), facts(is_held=False), Verdict.NO_HANDLER),
        (record(PARKED), facts(plan=None), Verdict.UNKNOWN_DEFINITION),
        (record(PARKED), facts(is_busy=True), Verdict.BUSY),
        (record(PARKED._replace(parked=Parked.HUMAN, operator="ben")), facts(), Verdict.TAKEN),
        (DONE, facts(), Verdict.GONE),
        (None, facts(), Verdict.GONE),
    ],
)
def test_a_step_is_judged(found: Any, known: Facts, verdict: Verdict) -> None:
    judged = judge_step(letter(kind=LetterKind.STEP), found, known)
    assert judged.verdict is verdict
    assert judged.moves is (verdict is Verdict.READY)


def test_of_a_step_whose_payload_did_not_fit_its_handler_is_said_what_has_to_run_first() -> None:
    unreadable = letter(kind=LetterKind.STEP, code="saga_choreo.errors.DecodeError")
    judged = judge_step(unreadable, record(PARKED), facts())
    assert (judged.verdict, judged.moves, "run a release that reads it" in judged.why) == (Verdict.READY, True, True)
    assert judge_step(letter(kind=LetterKind.STEP), record(PARKED), facts()).why == ""


STEP = PLAN.step(0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (record(PARKED, error="E: no"), Say()),
        (record(PARKED, error="E: no", resolution=word(1)), Say()),
        (record(PARKED, error="E: no", resolution=word(2)), Over(ItemState.FAILED, "E: no")),
        (record(Row(State.WAITING, done_in=1), error="E: no", resolution=word(2)), UnderWay()),
        (record(Row(State.RUNNING, done_in=1), error="E: no", resolution=word(2)), UnderWay()),
        (record(Row(State.COMPENSATING), error="E: no", resolution=word(2)), UnderWay()),
        (record(Row(State.DONE, done_in=1), resolution=word(2)), Over(ItemState.RESOLVED, "the step is completed")),
        (record(Row(State.TOMB, abort=True), error="E: no", resolution=word(2)), Over(ItemState.RESOLVED, "the step is skipped")),
        (record(Row(State.DONE, done_in=1), resolution=word(1)), Over(ItemState.SKIPPED, "it was not parked any more: completed")),
        (
            record(PARKED._replace(parked=Parked.HUMAN, operator="ben"), resolution=word(2)),
            Over(ItemState.SKIPPED, "'ben' has taken the step over"),
        ),
        (None, Over(ItemState.RESOLVED, "the saga has ended and is forgotten")),
    ],
)
def test_what_has_become_of_a_step_is_seen_on_its_record(found: Any, expected: object) -> None:
    assert of_step(found, STEP, 1) == expected


@pytest.mark.parametrize(
    ("counts", "allowed", "expected"),
    [
        ({"staged": 100}, float("inf"), 5),
        ({"staged": 90, "resolved": 10}, float("inf"), 10),
        ({"staged": 90, "resolved": 10, "running": 4}, float("inf"), 6),
        ({"staged": 90, "resolved": 500}, float("inf"), 32),
        ({"staged": 90, "resolved": 500, "running": 32}, float("inf"), 0),
        ({"staged": 90, "resolved": 500}, 2.9, 2),
        ({"staged": 90, "resolved": 500}, -3.0, 0),
    ],
)
def test_a_few_are_begun_first_and_never_more_than_asked_for(counts: Any, allowed: float, expected: int) -> None:
    assert room(job(in_flight_max=32), counts, allowed) == expected
    assert room(job(state=JobState.PAUSED), counts, allowed) == 0


@pytest.mark.parametrize(
    ("percent", "failed", "resolved", "does"),
    [(20, 4, 0, False), (20, 5, 0, True), (20, 1, 4, False), (20, 2, 4, True), (0, 1, 99, True), (100, 50, 0, False)],
)
def test_a_job_stops_beyond_its_share_of_failures(percent: int, failed: int, resolved: int, does: bool) -> None:
    said = stops(job(stop_percent=percent), {"failed": failed, "resolved": resolved})
    assert bool(said) is does
    assert not stops(job(stop_percent=percent, state=JobState.PAUSED), {"failed": failed, "resolved": resolved})


def test_a_job_is_over_when_nothing_is_under_way_or_will_be() -> None:
    assert not is_over(job(), {"staged": 1})
    assert not is_over(job(), {"running": 1})
    assert is_over(job(), {"resolved": 3})
    assert is_over(job(state=JobState.CANCELLED), {"staged": 5})
    assert not is_over(job(state=JobState.CANCELLED), {"staged": 5, "running": 1})


def test_a_rate_is_kept_and_nothing_is_saved_up_beyond_a_second() -> None:
    budget = Budget(600, 0.0)
    assert int(budget.left(0.0)) == 1
    budget.spend(1)
    assert int(budget.left(0.05)) == 0
    assert int(budget.left(0.1)) == 1
    assert int(budget.left(100.0)) == 10
    slow = Budget(6, 0.0)
    slow.spend(int(slow.left(20.0)))
    assert int(slow.left(25.0)) == 0
    assert int(slow.left(30.1)) == 1
    assert Budget(0, 0.0).left(0.0) == float("inf")
