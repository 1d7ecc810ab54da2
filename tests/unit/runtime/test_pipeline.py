"""The pipeline generator, driven by hand: what it asks for, in which order, and what it never does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saga_choreo import Choreography, ChoreographyStep, Limits, OnExhausted, Retry
from saga_choreo.codec.wire import decode
from saga_choreo.core.facts import CancelRequested, Refusal, Resolved
from saga_choreo.errors import SagaError, StoreConflict, StoreUnavailable, TransactionTooLong
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.record import Row
from saga_choreo.model.states import Cause, Outcome, Parked, State
from saga_choreo.runtime.operations import Begin, Broke, Commit, Execute, Overran, Pause, Publish, Rejected, Rollback, Save
from saga_choreo.runtime.saying import publications_of
from tests.unit.runtime.rig import NOW_MS, ONCE, RAN, Begun, OneDone, Rig, StockReserved, envelope, form


def kinds(rig: Rig) -> list[str]:
    return [type(one).__name__ for one in rig.seen if type(one).__name__ != "Now"]


def test_one_event_runs_the_step_and_the_next_one_of_the_same_service_in_one_commit() -> None:
    rig = Rig()
    arrivals = rig.handle(envelope(rig.choreography))
    assert kinds(rig) == ["Begin", "Claim", "Execute", "Execute", "Save", "Commit", "Ack", "Publish"]
    assert rig.acked() == [arrivals[0].delivery]
    assert {one.event.name for one in rig.said() if one.event} == {"one.done", "two.done"}
    assert rig.record("charge").row.state is rig.record("book").row.state is State.DONE


def test_a_duplicate_changes_nothing_and_is_acknowledged() -> None:
    rig = Rig()
    rig.is_alone = False
    rig.handle(envelope(rig.choreography))
    rig.seen.clear()
    rig.handle(envelope(rig.choreography))
    assert kinds(rig) == ["Begin", "Claim", "Rollback", "Ack"]


def test_a_conflict_is_tried_again_whole_and_then_one_by_one() -> None:
    rig = Rig()
    rig.faults[Commit] = [StoreConflict("1"), StoreConflict("2")]
    rig.handle(*(envelope(rig.choreography, number) for number in range(3)))
    assert [len(one.records) for one in rig.of(Save)] == [6, 6, 2, 2, 2]
    assert len(rig.of(Pause)) == 2
    assert len(rig.acked()) == 3


def test_a_conflict_that_never_ends_is_raised_and_nothing_of_the_rest_is_acknowledged() -> None:
    rig = Rig()
    rig.faults[Commit] = [None, *[StoreConflict("again")] * 20]
    rig.limits = replace(rig.limits, fast_budget_s=0.0)
    rig.__post_init__()
    rig.faults[Commit] = [None, *[StoreConflict("again")] * 20]
    rig.execute_ms = 1
    with pytest.raises(StoreConflict):
        rig.handle(envelope(rig.choreography, 0), envelope(rig.choreography, 1))
    assert len(rig.acked()) == 1
    assert len(rig.of(Commit)) == 1 + 8


def test_when_the_result_of_a_commit_is_unknown_nothing_is_acknowledged_or_published() -> None:
    rig = Rig()
    rig.faults[Commit] = [StoreUnavailable("who knows")]
    with pytest.raises(StoreUnavailable):
        rig.handle(envelope(rig.choreography))
    assert not rig.acked()
    assert not rig.of(Publish)


def test_a_shared_transaction_is_cut_when_its_budget_is_over_and_the_rest_goes_on_in_the_next() -> None:
    rig = Rig(limits=Limits(fast_budget_s=0.25))
    rig.execute_ms = 70  # two steps of a saga: 140 ms
    rig.handle(*(envelope(rig.choreography, number) for number in range(5)))
    assert [len(one.records) for one in rig.of(Save)] == [4, 4, 2]
    assert len(rig.acked()) == 5


def test_a_message_delivered_too_often_runs_its_step_in_the_slow_lane() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography), attempt=4)
    assert not rig.of(Execute)
    assert rig.record("charge").due_ms == NOW_MS
    assert "too often" in rig.record("charge").error
    rig.work("charge")
    assert rig.record("charge").row.state is State.DONE
    assert rig.record("charge").row.attempt == 1


def test_a_step_with_a_transaction_of_its_own_never_runs_in_the_shared_one() -> None:
    rig = Rig(options={"charge": {"own_transaction": True}})
    rig.handle(envelope(rig.choreography))
    assert not rig.of(Execute)
    rig.work("charge")
    assert rig.record("charge").row.state is State.DONE
    assert rig.record("charge").error == ""


def test_a_transaction_that_is_held_too_long_is_taken_apart_and_the_culprit_goes_to_the_slow_lane() -> None:
    rig = Rig()
    rig.faults[Save] = [TransactionTooLong("held")] * 2
    rig.handle(envelope(rig.choreography, 0), envelope(rig.choreography, 1))
    assert len(rig.acked()) == 2
    assert "too" in rig.record("charge", 0).error
    assert rig.record("charge", 1).row.state is State.DONE


@pytest.mark.parametrize("at", [Execute, Save])
def test_a_word_counts_though_what_follows_from_it_holds_up_its_transaction(at: type) -> None:
    rig = Rig(options={"charge": {"retry": ONCE}})
    rig.answers = [Broke("ValueError: no")]
    rig.handle(envelope(rig.choreography))
    assert rig.record("charge").row.parked is Parked.PARKED
    rig.faults[at] = [TransactionTooLong("held")]
    steps = rig.pipeline.command(rig.key("charge").saga_id, rig.key("charge").step, Resolved("retry", "ana"))
    assert isinstance(rig.drive(steps), Row)
    assert (rig.record("charge").row.parked, rig.record("charge").row.state) == (Parked.NO, State.WAITING)
    rig.work("charge")
    assert rig.record("charge").row.state is State.DONE


def test_a_reason_is_kept_though_the_word_had_to_be_said_twice() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    rig.faults[Save] = [TransactionTooLong("held")]
    assert isinstance(rig.drive(rig.pipeline.command(rig.key("charge").saga_id, None, CancelRequested(), "why not")), Row)
    assert "why not" in (rig.record("charge").reason, rig.record("book").reason)


@pytest.mark.parametrize("was_held_back", [False, True])
def test_what_follows_from_a_call_that_need_not_be_made_is_done_at_once_unless_that_held_up_its_transaction(
    was_held_back: bool,
) -> None:
    chain = (
        Choreography("rig")
        .starts_with(Begun)
        .step(
            ChoreographyStep("reserve").on_event(Begun).publish_event(StockReserved).with_compensation().owned_by("inventory"),
            ChoreographyStep("charge").on_event(StockReserved).publish_event(OneDone).with_compensation().owned_by("payment"),
            ChoreographyStep("call").on_event(OneDone).with_compensation(external=True).kind(external=True).owned_by("payment"),
        )
    )
    rig = Rig(chain, options={"call": {"concurrency": 1}})
    rig.handle(envelope(chain))
    to_me = Channel(ChannelKind.CONTROL, "payment")
    said = {"kind": MessageKind.ABORT, "from_step": "reserve", "event": None, "payload": b"", "cause": Cause.CANCELLED}
    rig.handle(envelope(chain, channel=to_me, **said))
    assert rig.record("call").row.state is State.RUNNING, "its limit may hold it, and nothing has been called"
    if was_held_back:
        record = rig.record("call")
        rig.records[record.record_key] = record.but(version=record.version + 1, error="held back: the place is taken")
        rig.work("call")
        assert rig.record("charge").row.state is State.COMPENSATED
        return
    rig.seen.clear()
    rig.faults[Execute] = [TransactionTooLong("held")] * 9
    rig.work("call")
    rig.work("call")
    assert len(rig.of(Execute)) == 1
    assert (rig.record("call").row.state, rig.record("charge").row.state) == (State.TOMB, State.DONE)
    rig.faults[Execute] = []
    rig.work("charge")
    assert rig.record("charge").row.state is State.COMPENSATED


def slow(rig: Rig, number: int = 0) -> None:
    """The step has failed once in the fast lane, and its backoff is over."""
    rig.answers = [Broke("OSError: down")]
    rig.handle(envelope(rig.choreography, number))
    record = rig.record("charge", number)
    assert record.row.attempt == 1
    assert record.due_ms is not None
    assert record.due_ms > rig.now_ms
    assert not rig.work("charge", number)  # not due yet
    rig.now_ms = record.due_ms
    rig.seen.clear()


def test_a_retry_counts_its_attempt_in_a_commit_of_its_own_before_it_runs() -> None:
    rig = Rig()
    slow(rig)
    rig.work("charge")
    names = kinds(rig)
    assert names.index("Commit") < names.index("Execute")
    (first, *_) = rig.of(Save)
    (claimed,) = first.records
    assert (claimed.row.attempt, claimed.lease_ms, claimed.due_ms) == (2, rig.now_ms + 4_000, rig.now_ms + 4_000)
    assert rig.record("charge").row.state is State.DONE


def test_an_attempt_that_another_one_has_overtaken_is_rolled_back() -> None:
    rig = Rig()
    slow(rig)
    rig.meanwhile = lambda: rig.change("charge", attempt=3)
    rig.work("charge")
    assert kinds(rig)[-1] == "Rollback"
    assert rig.record("charge").row.state is State.WAITING


def test_an_attempt_whose_saga_was_aborted_meanwhile_is_rolled_back() -> None:
    rig = Rig()
    slow(rig)
    rig.meanwhile = lambda: rig.change("charge", state=State.TOMB, abort=True)
    rig.work("charge")
    assert kinds(rig)[-1] == "Rollback"
    assert rig.record("charge").row.state is State.TOMB


def test_a_lost_connection_repeats_a_local_attempt_and_never_a_call_to_the_outside() -> None:
    for external, executed in ((False, 2), (True, 1)):
        rig = Rig(form(external=external))
        if external:
            rig.handle(envelope(rig.choreography))
            rig.seen.clear()
        else:
            slow(rig)
        rig.faults[Commit] = [None, StoreUnavailable("lost")]
        rig.work("charge")
        assert len([one for one in rig.of(Execute) if one.record.step == rig.key("charge").step]) == executed
        assert rig.record("charge").row.state is State.DONE


def test_an_attempt_that_meets_an_outage_eight_times_is_left_to_its_lease() -> None:
    rig = Rig()
    slow(rig)
    rig.faults[Commit] = [None, *[StoreUnavailable("lost")] * 20]
    with pytest.raises(StoreUnavailable):
        rig.work("charge")
    assert rig.record("charge").lease_ms is not None


def test_what_the_store_will_not_have_is_a_failure_of_a_local_step_and_raised_for_an_answer_from_outside() -> None:
    rig = Rig()
    slow(rig)
    rig.faults[Save] = [None, SagaError("will not do")]
    rig.work("charge")
    assert rig.record("charge").error == "SagaError: will not do"
    assert rig.record("charge").row.attempt == 2
    rig = Rig(form(external=True))
    rig.handle(envelope(rig.choreography))
    rig.faults[Save] = [None, SagaError("will not do")]
    with pytest.raises(SagaError):
        rig.work("charge")


@pytest.mark.parametrize(("policy", "state"), [(OnExhausted.PARK, State.WAITING), (OnExhausted.VETO, State.TOMB)])
def test_attempts_that_all_died_with_their_agents_end_as_the_policy_says(policy: OnExhausted, state: State) -> None:
    rig = Rig(options={"charge": {"retry": Retry(attempts=2, on_exhausted=policy)}})
    slow(rig)
    rig.faults[Execute] = [KeyboardInterrupt("killed")]  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        rig.work("charge")
    rig.seen.clear()
    rig.work("charge", after_ms=5_000)
    assert not rig.of(Execute)
    record = rig.record("charge")
    assert record.row.state is state
    assert (record.row.parked is Parked.PARKED) is (policy is OnExhausted.PARK)
    assert record.lease_ms is None
    assert record.error == "OSError: down"


def test_an_attempt_given_back_does_not_count_and_may_begin_at_once() -> None:
    rig = Rig()
    slow(rig)
    rig.faults[Execute] = [KeyboardInterrupt("stopped")]  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        rig.work("charge")
    rig.drive(rig.pipeline.give_back(rig.key("charge")))
    record = rig.record("charge")
    assert (record.row.attempt, record.lease_ms, record.due_ms) == (1, None, rig.now_ms)
    rig.seen.clear()
    rig.drive(rig.pipeline.give_back(rig.key("charge")))
    assert kinds(rig) == ["Begin", "Claim", "Rollback"]


def test_a_finished_record_and_an_unknown_one_are_not_worked_on() -> None:
    rig = Rig()
    assert rig.work("charge") is False
    assert kinds(rig) == ["Begin", "Claim", "Rollback"]


def test_what_was_done_is_said_again_when_nobody_answers_and_the_pause_doubles() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    record = rig.record("book")
    rig.announced[record.record_key] = record.version
    first = (record.due_ms or 0) - rig.now_ms
    rig.seen.clear()
    assert rig.work("book", after_ms=first) is True
    assert {decoded.reannounced for decoded in _decoded(rig)} == {True}
    again = rig.record("book")
    assert again.nudges == 1
    assert (again.due_ms or 0) - rig.now_ms == 2 * first
    assert again.announced == again.version  # a nudge is nothing new
    assert again.changed_ms == record.changed_ms, "nothing has changed by saying it again: so long the saga waits"


def _decoded(rig: Rig) -> list[Envelope]:
    return [decode(letter.channel, letter.headers, letter.body) for letter in rig.loose()]


def test_a_step_without_a_handler_in_this_agent_waits_for_another_agent() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography), attempt=4)
    known = rig.catalog.get(rig.choreography.definition)
    rig.catalog.add(known.plan)
    rig.work("charge")
    assert "no handler" in rig.record("charge").error
    assert rig.record("charge").due_ms == rig.now_ms + 1_000, "soon while its saga is young: another agent may have the handler"


def test_a_deadline_that_passed_refuses_a_waiting_step_and_tells_everybody() -> None:
    rig = Rig()
    deadline = NOW_MS + 100
    rig.answers = [Broke("down")]
    rig.handle(envelope(rig.choreography, deadline_ms=deadline))
    assert rig.record("charge").due_ms == deadline
    rig.seen.clear()
    rig.work("charge", after_ms=100)
    assert rig.record("charge").row.state is State.TOMB
    said = rig.said()
    assert {(one.kind, one.cause) for one in said if one.kind is MessageKind.ABORT} == {(MessageKind.ABORT, Cause.TIMED_OUT)}


def test_a_callback_that_failed_has_its_outcome_delivered_again() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    outcome = envelope(
        rig.choreography, kind=MessageKind.OUTCOME, outcome=Outcome.COMPLETED, channel=Channel(ChannelKind.OUTCOME), event=None,
        from_step="origin", payload=b"", sender="shop",
    )  # fmt: skip
    rig.untold = frozenset({outcome.saga_id})
    rig.seen.clear()
    (arrival,) = rig.handle(outcome)
    assert not rig.acked()
    assert rig.released() == [(arrival.delivery, 2.0)]
    rig.untold = frozenset()
    (arrival,) = rig.handle(outcome, attempt=2)
    assert rig.acked() == [arrival.delivery]


def test_a_command_applies_and_publishes_is_refused_or_finds_nothing() -> None:
    rig = Rig(options={"charge": {"retry": ONCE}})
    saga_id = envelope(rig.choreography).saga_id
    assert rig.drive(rig.pipeline.command(saga_id, None, CancelRequested())) is None
    rig.answers = [Broke("down")]
    rig.handle(envelope(rig.choreography))
    assert rig.record("charge").row.parked is Parked.PARKED
    answer = rig.drive(rig.pipeline.command(saga_id, 1, Resolved("done", "ann")))
    assert isinstance(answer, Refusal)
    rig.seen.clear()
    answer = rig.drive(rig.pipeline.command(saga_id, None, CancelRequested(), "why not"))
    assert isinstance(answer, Row)
    assert [one.reason for one in rig.said() if one.kind is MessageKind.CANCEL_REQUEST] == ["why not"]
    unchanged = rig.drive(rig.pipeline.command(saga_id, None, CancelRequested()))
    assert unchanged == answer


def test_a_refusal_a_good_result_and_an_overrun_share_a_transaction_and_each_counts_for_itself() -> None:
    rig = Rig()
    rig.answers = [Rejected("no"), RAN, RAN, Overran()]
    rig.handle(*(envelope(rig.choreography, number) for number in range(3)))
    assert len(rig.of(Commit)) == len(rig.of(Begin)) == 1
    assert not rig.of(Rollback)
    states = [rig.record("charge", number).row.state for number in range(3)]
    assert states == [State.TOMB, State.DONE, State.WAITING]
    assert rig.record("charge", 2).due_ms == rig.now_ms
    assert rig.record("charge", 2).row.attempt == 0


def test_everything_a_record_says_can_be_published_again() -> None:
    rig = Rig()
    rig.handle(envelope(rig.choreography))
    said = rig.said()
    publications = publications_of(list(rig.records.values()), rig.catalog, 1)
    assert sum(len(one.messages) for one in publications) == len(said)
