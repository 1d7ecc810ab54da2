"""What must hold at the end of a simulation with a user's own agents: by the records, and by the user's own check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from saga_choreo.core.rows import is_finished
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Outcome, Parked, SagaState, State
from saga_choreo.runtime.plugins import WholeStore
from saga_choreo.runtime.views import view_of
from saga_choreo.testing.simulator.settings import Fetch

__all__ = ["fetch_from", "findings"]

_KEPT = frozenset({State.DONE, State.SKIPPED})
_GONE = frozenset({State.COMPENSATED, State.TOMB, State.SKIPPED, State.SKIPPED_CLEARED, State.WAITING})


def fetch_from(stores: Mapping[str, WholeStore]) -> Fetch:
    """`await fetch(service, statement, *parameters)`: rows of a service's database. A table that no step has made yet is empty."""

    async def fetch(service: str, statement: str, *parameters: Any) -> list[Any]:
        async with stores[service].transaction() as transaction:
            try:
                return await transaction.user.fetch(statement, *parameters)
            except Exception as error:
                if "no such table" in str(error):
                    return []
                raise

    return fetch


def findings(key: str, saga: Sequence[Record]) -> tuple[UUID, SagaState, list[tuple[str, str]]]:
    """The saga's id, its state, and what is wrong with it, as (code of the promise, words)."""
    origin = next(record for record in saga if record.step == ORIGIN)
    state, outcome, wrong = view_of(saga, None).state, origin.row.outcome, list[tuple[str, str]]()
    if outcome is Outcome.OPEN:
        waiting = "; ".join(_words(record) for record in saga if record.step != ORIGIN and not is_finished(record.row))
        return origin.saga_id, state, [("L1", f"saga {key!r} never ended: {waiting or 'no step is known'}")]
    for record in saga:
        name = f"saga {key!r}, step {record.step} at {record.service!r}"
        if not is_finished(record.row):
            wrong.append(("L2", f"{name} never learned the outcome: {_words(record)}"))
        elif record.row.outcome is not outcome:
            wrong.append(("S6", f"{name} believes that it {record.row.outcome.value}, and the saga {outcome.value}"))
        elif record.announced < record.version:
            wrong.append(("L6", f"{name} still has something to say after the end"))
        if record.step != ORIGIN and record.row.state not in (_KEPT if outcome is Outcome.COMPLETED else _GONE):
            wrong.append(("S6", f"{name} is {record.row.state.name} in a saga that {outcome.value}"))
    return origin.saga_id, state, wrong


def _words(record: Record) -> str:
    parked = (
        "parked, " if record.row.parked is not Parked.NO else "waits for its answer from outside, " if record.row.pending else ""
    )
    return f"step {record.step} at {record.service!r} is {record.row.state.name} ({parked}{record.error or 'no error'})"
