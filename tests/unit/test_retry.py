"""Retry policies: how long, how often, and never outside their range."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_choreo.errors import Reject
from saga_choreo.model.retry import Backoff, OnExhausted, Retry

attempts = st.integers(1, 10**9)
chances = st.floats(0, 1, exclude_max=True)


@st.composite
def policies(draw: st.DrawFn) -> Retry:
    low, high = sorted((draw(st.floats(0, 1e6)), draw(st.floats(0, 1e6))))
    return Retry(
        attempts=draw(st.integers(1, 100)),
        backoff=draw(st.sampled_from(Backoff)),
        delay_s=low,
        delay_max_s=high,
        jitter=draw(st.booleans()),
    )


@given(policies(), attempts, chances)
def test_a_delay_is_never_negative_nor_over_the_maximum(policy: Retry, attempt: int, chance: float) -> None:
    assert 0 <= policy.delay_after(attempt, chance) <= policy.delay_max_s


@given(policies(), attempts, attempts)
def test_without_jitter_a_later_attempt_never_waits_less(policy: Retry, one: int, other: int) -> None:
    # At the top of its range jitter is no jitter.
    first, second = sorted((one, other))
    assert policy.delay_after(first, 1.0) <= policy.delay_after(second, 1.0)


@given(policies(), attempts)
def test_only_exponential_delays_have_jitter(policy: Retry, attempt: int) -> None:
    spread = policy.jitter and policy.backoff is Backoff.EXPONENTIAL
    low, high = policy.delay_after(attempt, 0.0), policy.delay_after(attempt, 1.0)
    assert low == (0 if spread else high)


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (Backoff.FIXED, [0.5, 0.5, 0.5, 0.5, 0.5]),
        (Backoff.LINEAR, [0.5, 1.0, 1.5, 2.0, 2.5]),
        (Backoff.EXPONENTIAL, [0.5, 1.0, 2.0, 4.0, 5.0]),
    ],
)
def test_each_backoff_grows_its_own_way_up_to_the_maximum(backoff: Backoff, delays: list[float]) -> None:
    policy = Retry(backoff=backoff, delay_s=0.5, delay_max_s=5.0, jitter=False)
    assert [policy.delay_after(attempt, 0.3) for attempt in range(1, 6)] == delays


def test_the_first_attempt_counts() -> None:
    assert not Retry(attempts=2).is_exhausted(1)
    assert Retry(attempts=2).is_exhausted(2)
    assert Retry(attempts=1).is_exhausted(1)


def test_a_policy_that_cannot_be_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Retry(attempts=0)
    for low, high in ((-1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="not a range"):
            Retry(delay_s=low, delay_max_s=high)
    with pytest.raises(ValueError, match="max_time_s"):
        Retry(max_time_s=0.0)


def test_time_ends_it_as_attempts_do_and_the_last_attempt_is_made_when_it_is_over() -> None:
    policy = Retry(attempts=None, backoff=Backoff.FIXED, delay_s=4.0, max_time_s=10.0)
    assert not policy.is_exhausted(1000, 9.9)
    assert policy.is_exhausted(1, 10.0)
    assert [policy.delay_after(1, 0.5, elapsed_s) for elapsed_s in (0.0, 7.0, 10.0, 11.0)] == [4.0, 3.0, 0.0, 0.0]


def test_never_and_forever_mean_what_they_say() -> None:
    assert Retry.never().is_exhausted(1)
    assert Retry.never(OnExhausted.VETO).on_exhausted is OnExhausted.VETO
    assert not Retry.forever().is_exhausted(10**9, 10.0**9)
    assert Retry.forever(max_time_s=60).is_exhausted(2, 60.0)


def test_the_closest_class_of_an_error_says_which_policy_counts() -> None:
    refused, lost = Retry.never(), Retry.forever()
    policy = Retry(attempts=3, on={ConnectionError: lost, ConnectionRefusedError: refused})
    assert policy.of(ConnectionRefusedError) is refused
    assert policy.of(ConnectionResetError) is lost
    assert policy.of(ValueError) is policy
    assert Retry().of(ValueError) == Retry()
    assert hash(policy) == hash(Retry(attempts=3))


def test_attempts_that_died_are_used_up_only_when_every_policy_is() -> None:
    policy = Retry(attempts=3, on={ConnectionError: Retry(attempts=5), ValueError: Retry.never()})
    assert not policy.is_used_up(4, 0.0)
    assert policy.is_used_up(5, 0.0)


@pytest.mark.parametrize(
    ("on", "complaint"),
    [
        ({int: Retry()}, "no exception class"),
        ({"TimeoutError": Retry()}, "no exception class"),
        ({KeyboardInterrupt: Retry()}, "no exception class"),
        ({Reject: Retry()}, "no failure"),
        ({ValueError: 3}, "give a Retry"),
        ({ValueError: Retry(on={KeyError: Retry()})}, "policies of its own"),
    ],
)
def test_a_policy_for_what_is_no_failure_is_an_error(on: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Retry(on=on)
