"""Records are made and copied without their constructor; what comes out is what the constructor makes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any
from uuid import UUID

import pytest

from saga_choreo.model.record import Record, Row
from saga_choreo.model.states import State

NEEDED: dict[str, Any] = {
    "service": "payment",
    "saga_id": UUID(int=7),
    "definition": "d",
    "step": 1,
    "row": Row(),
    "choreography": "orders",
    "origin": "order",
}


def test_a_record_made_of_values_is_the_one_that_the_constructor_makes() -> None:
    assert Record.of(**NEEDED) == Record(**NEEDED)
    more = {"key": "k", "inputs": {0: b"{}"}, "version": 3, "failure": None}
    assert Record.of(**NEEDED, **more) == Record(**NEEDED, **more)  # type: ignore[arg-type]  # values of several types
    assert [vars(Record.of(**NEEDED))[one.name] for one in fields(Record)] == [
        getattr(Record(**NEEDED), one.name) for one in fields(Record)
    ]


def test_a_copy_differs_in_what_is_named_only_and_leaves_the_first_as_it_was() -> None:
    first = Record(**NEEDED)
    other = first.but(row=Row(State.DONE), version=2)
    assert other == replace(first, row=Row(State.DONE), version=2)
    assert first == Record(**NEEDED)
    with pytest.raises(FrozenInstanceError):
        other.version = 3  # type: ignore[misc]  # that is what is tried


def test_a_field_that_there_is_not_is_named() -> None:
    with pytest.raises(TypeError, match="'stat'"):
        Record(**NEEDED).but(stat=1)
    without = {name: value for name, value in NEEDED.items() if name != "origin"}
    with pytest.raises(TypeError, match="'origin'"):
        Record.of(**without)
    with pytest.raises(TypeError, match="'origin'"):
        Record.of(**without, orgin="order")
