"""Limits and breakers as plain arithmetic, on a clock that the test turns."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_choreo.model.breaker import Breaker, BreakerState
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.runtime.gates import Gates, Permit
from saga_choreo.runtime.limits import Bucket, Circuit, Places
from saga_choreo.runtime.operations import Broke, Executed, HeldBack, Overran, Ran, Rejected

# What a gate is asked with matters only where there is none yet.
NONE = StepOptions()


@dataclass
class HandClock:
    """Stands still until it is moved."""

    now_s: float = 100.0
    chances: list[float] = field(default_factory=list[float])

    def time_ns(self) -> int:
        return int(self.now_s * 1e9)

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def chance(self) -> float:
        return 0.5

    def entropy(self, size: int) -> bytes:
        return bytes(size)


def _served(bucket: Bucket, arrivals: list[float]) -> list[tuple[float, int]]:
    """When each arrival was let through, if everybody comes back exactly when told."""
    waiting = sorted((at, n, False) for n, at in enumerate(arrivals))
    served: list[tuple[float, int]] = []
    while waiting:
        at, n, waited = waiting.pop(0)
        bucket, said = bucket.ask(at, waited=waited)
        if said.wait_s:
            waiting = sorted([*waiting, (at + said.wait_s, n, True)])
        else:
            served.append((at, n))
    return served


@given(st.floats(0.5, 200.0), st.lists(st.floats(0.0, 2.0), min_size=1, max_size=40))
def test_no_stretch_of_time_sees_more_runs_than_the_rate_and_its_burst(rate: float, arrivals: list[float]) -> None:
    served = [at for at, _ in _served(Bucket(rate), arrivals)]
    burst = max(1.0, rate * 0.1)
    for first, since in enumerate(served):
        for count, until in enumerate(served[first:], start=1):
            assert count <= burst + (until - since) * rate + 1.1


@given(st.floats(1.0, 50.0), st.integers(2, 60))
def test_what_waits_for_a_token_comes_back_once_and_in_the_order_it_came(rate: float, count: int) -> None:
    asked = 0
    bucket, waiting = Bucket(rate, tokens=0.0, at_s=10.0), []
    for n in range(count):
        bucket, said = bucket.ask(10.0 + n / 1000, waited=False)
        waiting.append((10.0 + n / 1000 + said.wait_s, n))
    order = []
    for at, n in sorted(waiting):
        bucket, said = bucket.ask(at, waited=True)
        asked += 1
        assert said.wait_s == 0.0
        order.append(n)
    assert order == list(range(count))
    assert asked == count


def test_who_comes_new_does_not_overtake_who_waits_for_a_token() -> None:
    bucket, _ = Bucket(10.0, at_s=0.0).ask(0.0, waited=False)
    bucket, first = bucket.ask(0.0, waited=False)
    bucket, second = bucket.ask(0.0, waited=False)
    assert (first.wait_s, second.wait_s) == pytest.approx((0.1, 0.2))
    bucket, newcomer = bucket.ask(0.11, waited=False)
    assert newcomer.wait_s > 0.1
    bucket, back = bucket.ask(0.11, waited=True)
    assert back.wait_s == 0.0


def test_places_are_never_oversold_and_free_ones_go_to_those_who_waited() -> None:
    places = Places(2)
    for _ in range(2):
        places, said = places.ask(0.0, 0.0, waited=False)
        assert said.wait_s == 0.0
    waits = []
    for _ in range(3):
        places, said = places.ask(0.0, 0.0, waited=False)
        waits.append(said.wait_s)
        assert said.why == "its concurrency limit is 2"
    assert waits == sorted(set(waits)), "they come back one after the other"
    places = places.leave(0.1)
    places, newcomer = places.ask(0.01, 0.0, waited=False)
    assert newcomer.wait_s > 0
    places, back = places.ask(0.05, 0.0, waited=True)
    assert back.wait_s == 0.0
    assert places.taken == 2


def test_who_waits_for_a_place_that_is_long_taken_asks_ever_less() -> None:
    places, _ = Places(1).ask(0.0, 0.0, waited=False)
    now_s, asked = 0.0, 0
    while now_s < 60.0:
        places, said = places.ask(now_s, now_s, waited=True)
        now_s += said.wait_s
        asked += 1
    assert asked < 80


def _failing(circuit: Circuit, *at_s: float) -> Circuit:
    for now_s in at_s:
        circuit, said = circuit.ask(now_s)
        assert said.wait_s == 0.0
        circuit = circuit.failed(now_s, probe=False)
    return circuit


def test_a_breaker_opens_after_enough_failures_within_its_window_only() -> None:
    closed = Circuit(Breaker(failures=3, window_s=10.0, open_s=5.0))
    assert _failing(closed, 0.0, 6.0, 12.0).state is BreakerState.CLOSED
    assert _failing(closed, 0.0, 6.0, 9.0).state is BreakerState.OPEN


def test_an_open_breaker_lets_exactly_one_probe_through_and_closes_when_it_works() -> None:
    circuit = _failing(Circuit(Breaker(failures=1, open_s=5.0)), 0.0)
    circuit, said = circuit.ask(1.0)
    assert said.wait_s == pytest.approx(4.0)
    circuit, probe = circuit.ask(5.0)
    assert probe.wait_s == 0.0
    assert circuit.state is BreakerState.HALF_OPEN
    circuit, other = circuit.ask(5.0)
    assert other.wait_s > 0
    circuit = circuit.worked(probe=False)
    assert circuit.state is BreakerState.HALF_OPEN, "what began before it opened proves nothing"
    circuit = circuit.worked(probe=True)
    assert circuit.state is BreakerState.CLOSED
    assert circuit.ask(5.1)[1].wait_s == 0.0


def test_a_breaker_whose_probes_fail_opens_for_longer_and_longer_up_to_its_bound() -> None:
    circuit = _failing(Circuit(Breaker(failures=1, open_s=5.0, open_max_s=15.0)), 0.0)
    spans: list[float] = []
    for _ in range(4):
        spans.append(circuit.open_s)
        circuit, _ = circuit.ask(circuit.until_s)
        circuit = circuit.failed(circuit.until_s, probe=True)
    assert spans == [5.0, 10.0, 15.0, 15.0]
    circuit, _ = circuit.ask(circuit.until_s)
    assert _failing(circuit.worked(probe=True), 1000.0).open_s == 5.0, "and for its usual time once it has been closed"


def test_a_probe_that_was_cut_short_leaves_its_place_to_the_next() -> None:
    circuit, _ = _failing(Circuit(Breaker(failures=1, open_s=5.0)), 0.0).ask(5.0)
    circuit, said = circuit.unknown(probe=True).ask(5.0)
    assert said.wait_s == 0.0
    assert circuit.probing


@given(st.integers(1, 300))
def test_what_a_breaker_holds_back_comes_back_spread_out(count: int) -> None:
    circuit = _failing(Circuit(Breaker(failures=1, open_s=5.0)), 0.0)
    waits: list[float] = []
    for _ in range(count):
        circuit, said = circuit.ask(0.0)
        waits.append(said.wait_s)
    assert waits[0] == 5.0
    assert all(later - earlier > 0.009 for earlier, later in itertools.pairwise(waits))


def _gates(clock: HandClock, **options: object) -> Gates:
    gates = Gates(clock)
    gates.expect("charge", StepOptions(**options))  # type: ignore[arg-type]  # the options are named by each test
    return gates


def _run(gates: Gates, answer: Executed | None) -> None:
    permit = gates.ask("charge", NONE, waited=True)
    assert isinstance(permit, Permit), permit
    permit.end(permit, answer)


def test_only_technical_failures_open_a_gate_and_each_change_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    gates = _gates(clock, breaker=Breaker(failures=2, open_s=5.0))
    with caplog.at_level(logging.INFO, "saga_choreo.step"):
        for answer in (Broke("down"), Ran(), Rejected("no"), Overran(), None, Broke("down")):
            assert gates.breakers()["charge"].state is BreakerState.CLOSED
            _run(gates, answer)
        view = gates.breakers()["charge"]
        assert (view.state, view.opens_for_s) == (BreakerState.OPEN, pytest.approx(5.0))
        held = gates.ask("charge", NONE, waited=True)
        assert held == HeldBack(105_000, "its circuit breaker is open")
        clock.now_s += 5.0
        _run(gates, Rejected("no"))
    assert gates.breakers()["charge"].state is BreakerState.CLOSED
    assert [line.message for line in caplog.records] == [
        "the circuit breaker of step 'charge' was closed and is open for 5 s",
        "the circuit breaker of step 'charge' was open and is half-open",
        "the circuit breaker of step 'charge' was half-open and is closed",
    ]


def test_a_limit_that_says_no_costs_the_others_nothing() -> None:
    clock = HandClock()
    gates = _gates(clock, concurrency=1, rate_per_s=10.0, breaker=Breaker(failures=1, open_s=5.0))
    permit = gates.ask("charge", NONE, waited=False)
    assert isinstance(permit, Permit)
    clock.now_s += 1.0
    for _ in range(20):
        assert isinstance(gates.ask("charge", NONE, waited=True), HeldBack)
    permit.end(permit, Broke("down"))
    clock.now_s += 5.0
    probe = gates.ask("charge", NONE, waited=True)
    assert isinstance(probe, Permit), "neither the token nor the probe was used up by those that found no place"
    permit.end(permit, Broke("again"))
    assert gates.breakers()["charge"].state is BreakerState.HALF_OPEN, "a permit ends once"


def test_a_step_without_limits_needs_no_permit() -> None:
    gates = _gates(HandClock())
    assert gates.ask("charge", NONE, waited=False) is None
    assert gates.breakers() == {}


def test_a_breaker_that_cannot_be_is_an_error() -> None:
    for wrong in ({"failures": 0}, {"window_s": 0.0}, {"open_s": -1.0}, {"open_s": 10.0, "open_max_s": 5.0}):
        with pytest.raises(ValueError, match="breaker"):
            Breaker(**wrong)  # type: ignore[arg-type]  # wrong on purpose
