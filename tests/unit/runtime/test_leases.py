"""Leases: short, kept alive by the process that runs the attempt, and never what decides whose result counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from saga_choreo import Limits
from saga_choreo.errors import StoreUnavailable
from saga_choreo.model.states import State
from saga_choreo.runtime.leases import Leases
from saga_choreo.runtime.operations import Broke, Commit, Execute, Overran, Rollback
from tests.unit.runtime.rig import Rig, envelope, form

LIMITS = Limits()
LEASE_MS = int(1000 * LIMITS.lease_s)


def calling() -> tuple[Rig, Leases]:
    """An attempt of an external step is under way, whose process was killed or still lives: that is for the test to say."""
    rig = Rig(form(external=True))
    rig.handle(envelope(rig.choreography))
    rig.faults[Execute] = [KeyboardInterrupt("here the test goes on")]  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        rig.work("charge")
    leases = Leases(rig.name, rig.catalog, rig.limits, rig.announced)
    leases.hold(rig.record("charge"))
    rig.seen.clear()
    return rig, leases


def renewed(rig: Rig, leases: Leases) -> Any:
    return rig.drive(leases.renewal([rig.record("charge")]))


def test_a_lease_is_short_whatever_the_step_may_take() -> None:
    rig, _ = calling()
    assert rig.record("charge").lease_ms == rig.now_ms + LEASE_MS
    rig = Rig(form(external=True), options={"charge": {"timeout": 600.0}})
    rig.handle(envelope(rig.choreography))
    rig.faults[Execute] = [KeyboardInterrupt("killed")]  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        rig.work("charge")
    assert rig.record("charge").lease_ms == rig.now_ms + LEASE_MS


def test_only_leases_that_have_aged_are_renewed_so_short_attempts_cost_nothing() -> None:
    rig, leases = calling()
    assert not leases.ageing(rig.now_ms + 500)
    assert [one.record_key for one in leases.ageing(rig.now_ms + 1000)] == [rig.key("charge")]
    leases.let_go(rig.key("charge"))
    assert not leases.ageing(rig.now_ms + 1000)


def test_a_renewal_moves_lease_and_timer_and_tells_nobody_anything() -> None:
    rig, leases = calling()
    before = rig.record("charge")
    rig.now_ms += 1500
    assert renewed(rig, leases) == []
    record = rig.record("charge")
    assert (record.lease_ms, record.due_ms) == (rig.now_ms + LEASE_MS, rig.now_ms + LEASE_MS)
    assert record.row == before.row
    assert record.version == record.announced == before.version + 1
    assert not leases.ageing(rig.now_ms), "the new lease is known here"


def test_a_renewal_never_shortens_a_lease() -> None:
    rig, leases = calling()
    rig.now_ms -= 2000  # another clock
    renewed(rig, leases)
    assert rig.record("charge").lease_ms == rig.now_ms + 2000 + LEASE_MS


@pytest.mark.parametrize("change", [{"attempt": 2}, {"key_no": 1}, {"state": State.DONE}, {"pending": True}])
def test_an_attempt_that_does_not_count_any_more_is_not_renewed_and_not_held(change: dict[str, Any]) -> None:
    rig, leases = calling()
    claimed, version = rig.record("charge"), rig.record("charge").version
    rig.change("charge", **change)
    assert rig.drive(leases.renewal([claimed])) == [rig.key("charge")]
    assert rig.record("charge").version == version + 1, "only the change itself"
    assert isinstance(rig.seen[-1], Rollback)
    assert not leases.ageing(rig.now_ms + LEASE_MS)


def test_a_renewal_that_the_store_does_not_take_is_tried_again() -> None:
    rig, leases = calling()
    rig.now_ms += 1500
    rig.faults[Commit] = [StoreUnavailable("gone")]
    with pytest.raises(StoreUnavailable):
        renewed(rig, leases)
    assert leases.ageing(rig.now_ms)


def test_a_second_agent_begins_when_the_lease_is_over_and_the_first_ones_answer_does_not_count() -> None:
    rig, leases = calling()
    claimed = rig.record("charge")
    assert not rig.work("charge", after_ms=LEASE_MS - 1), "not yet"
    assert rig.record("charge").row.attempt == 1
    rig.answers = [Broke("the second one failed")]
    rig.work("charge", after_ms=1)
    assert rig.record("charge").row.attempt == 2
    # The first process was only stopped, and goes on now: it may neither keep the lease nor settle.
    assert rig.drive(leases.renewal([claimed])) == [rig.key("charge")]
    assert rig.record("charge").error == "the second one failed"


def test_an_attempt_from_before_a_persons_retry_is_not_the_one_of_the_same_number_after_it() -> None:
    rig, leases = calling()
    claimed = rig.record("charge")

    def meanwhile() -> (
        None
    ):  # parked, tried again by a person, and claimed by another agent: attempt 1 once more, under the same key
        record = rig.record("charge")
        since_ms = (record.tried_since_ms or 0) + 5000
        rig.records[record.record_key] = record.but(version=record.version + 1, tried_since_ms=since_ms)

    meanwhile()
    assert rig.drive(leases.renewal([claimed])) == [rig.key("charge")]
    rig = Rig(form(external=True))
    rig.handle(envelope(rig.choreography))
    rig.meanwhile = meanwhile
    rig.work("charge")
    assert isinstance(rig.seen[-1], Rollback), "the answer is that of another attempt"
    assert rig.record("charge").row.state is State.RUNNING


def test_the_lease_after_an_attempt_that_ended_without_an_answer_is_doubled_and_bounded() -> None:
    rig, _ = calling()
    for lost in range(1, 5):
        record = rig.record("charge")
        assert record.lease_ms is not None
        rig.now_ms = record.lease_ms
        rig.faults[Execute] = [KeyboardInterrupt("killed")]  # type: ignore[list-item]
        with pytest.raises(KeyboardInterrupt):
            rig.work("charge")
        after_ms = min(LEASE_MS << lost, int(1500 * LIMITS.slow_timeout_s))
        assert rig.record("charge").lease_ms == rig.now_ms + after_ms


def test_an_attempt_that_answered_begins_the_next_with_the_short_lease() -> None:
    for answer in (Broke("down"), Overran()):
        rig, _ = calling()
        rig.now_ms += LEASE_MS
        rig.answers = [answer]
        rig.work("charge")
        rig.now_ms = rig.record("charge").due_ms or 0
        seen: list[int | None] = []
        rig.meanwhile = lambda rig=rig, seen=seen: seen.append(rig.record("charge").lease_ms)  # type: ignore[misc]
        began_ms = rig.now_ms
        rig.answers = [Broke("again")]
        rig.work("charge")
        assert seen == [began_ms + LEASE_MS]


def test_a_step_with_a_transaction_of_its_own_never_shares_one_also_when_it_becomes_due_by_itself() -> None:
    """As the first step of a saga does that its own service has started in a caller's transaction."""
    rig = Rig(options={"charge": {"own_transaction": True}})
    rig.handle(envelope(rig.choreography))
    assert not rig.of(Execute)
    record = rig.record("charge")
    rig.records[record.record_key] = replace(record, error="")
    rig.work("charge")
    names = [type(one).__name__ for one in rig.seen]
    assert names.index("Commit") < names.index("Execute"), "its attempt is counted first"
    assert rig.record("charge").row.state is State.DONE
