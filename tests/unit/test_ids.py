"""Saga ids carry their start time, sort by it, and are UUIDs of version 7."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_choreo.model.ids import saga_id_at, started_ms

times = st.integers(0, 2**48 - 1)
noise = st.binary(min_size=10, max_size=16)


@given(times, noise)
def test_an_id_is_a_uuid_of_version_7_that_gives_back_its_time(unix_ms: int, entropy: bytes) -> None:
    saga_id = saga_id_at(unix_ms, entropy)
    assert saga_id.version == 7
    assert saga_id.variant == uuid.RFC_4122
    assert started_ms(saga_id) == unix_ms


@given(times, times, noise, noise)
def test_ids_sort_by_their_time(one_ms: int, other_ms: int, one: bytes, other: bytes) -> None:
    if one_ms < other_ms:
        assert saga_id_at(one_ms, one) < saga_id_at(other_ms, other)
        assert str(saga_id_at(one_ms, one)) < str(saga_id_at(other_ms, other))


@given(times, st.integers(0, 2**74 - 1), st.integers(0, 2**74 - 1))
def test_74_bits_of_noise_tell_ids_of_one_millisecond_apart(unix_ms: int, one: int, other: int) -> None:
    ids = [saga_id_at(unix_ms, number.to_bytes(10, "big")) for number in (one, other)]
    assert (ids[0] == ids[1]) == (one == other)


def test_too_little_noise_or_an_impossible_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="10 random bytes, got 9"):
        saga_id_at(0, b"123456789")
    for unix_ms in (-1, 2**48):
        with pytest.raises(ValueError, match="does not fit"):
            saga_id_at(unix_ms, b"0123456789")
