"""Payloads by number survive being packed into one column, and damage is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_choreo.model.record import pack_payloads, unpack_payloads

payloads = st.dictionaries(st.integers(0, 65_535), st.binary(max_size=50), max_size=6)


@given(payloads)
def test_what_is_packed_comes_back(several: dict[int, bytes]) -> None:
    assert unpack_payloads(pack_payloads(several)) == several


@given(payloads)
def test_the_order_of_arrival_does_not_change_the_blob(several: dict[int, bytes]) -> None:
    assert pack_payloads(dict(reversed(several.items()))) == pack_payloads(several)


def test_nothing_is_packed_as_nothing() -> None:
    assert pack_payloads({}) is None
    assert unpack_payloads(None) == {}


@given(st.integers(0, 65_535), st.binary(max_size=50), st.data())
def test_a_blob_cut_short_is_noticed(number: int, body: bytes, data: st.DataObject) -> None:
    blob = pack_payloads({number: body})
    assert blob is not None
    cut = data.draw(st.integers(1, len(blob) - 1))
    with pytest.raises(ValueError, match="cut short"):
        unpack_payloads(blob[:cut])


@given(st.binary(max_size=80))
def test_any_blob_is_read_or_refused(blob: bytes) -> None:
    try:
        several = unpack_payloads(blob)
    except ValueError:
        return
    assert sum(map(len, several.values())) <= len(blob)
