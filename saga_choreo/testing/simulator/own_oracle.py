"""What must hold at the end of a simulation with a user's own agents: by the records, and by the user's own check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saga_choreo.core.graph import Plan
from saga_choreo.core.rows import is_finished
from saga_choreo.errors import ConfigurationError
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Outcome, Parked, State
from saga_choreo.runtime.plugins import WholeStore
from saga_choreo.runtime.views import SagaView
from saga_choreo.testing.simulator.settings import Check, Fetch

__all__ = ["fetch_from", "findings", "said_by"]

_KEPT = frozenset({State.DONE, State.SKIPPED})
_GONE = frozenset({State.COMPENSATED, State.TOMB, State.SKIPPED, State.SKIPPED_CLEARED, State.WAITING})


def fetch_from(stores: Mapping[str, WholeStore]) -> Fetch:
    """`await fetch(service, statement, *parameters)`: rows of a service's database. A table that no step has made yet is empty."""

    async def fetch(service: str, statement: str, *parameters: Any) -> list[Any]:
        if service not in stores:
            raise ConfigurationError(
                f"there is no service {service!r} to fetch from; the agents are {', '.join(map(repr, stores))}"
            )
        async with stores[service].transaction() as transaction:
            try:
                return await transaction.user.fetch(statement, *parameters)
            except Exception as error:
                if "no such table" in str(error):
                    return []
                raise

    return fetch


async def said_by(check: Check, view: SagaView, fetch: Fetch) -> list[str]:
    """What the user's own check says; an assertion that fails there says it as well. Raises ConfigurationError for a check that
    breaks, or that answers with something else than texts."""
    try:
        said: object = await check(view.saga_id, view.state, fetch)
    except AssertionError as error:
        return [str(error) or "an assertion of the check failed"]
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"the check of saga {view.key!r} ({view.state.value}) failed with {type(error).__name__}: {error}; mend the check"
        ) from error
    if not isinstance(said, list | tuple):
        raise ConfigurationError(
            f"the check gave {said!r}; return a list of texts that say what is wrong, an empty one if nothing is"
        )
    return [str(text) for text in said]


def findings(plan: Plan, saga: Sequence[Record]) -> list[tuple[str, str]]:
    """What is wrong with a saga by the records of all its participants, as (code of the promise, words)."""
    origin = next(record for record in saga if record.step == ORIGIN)
    outcome, key, wrong = origin.row.outcome, origin.key, list[tuple[str, str]]()
    if outcome is Outcome.OPEN:
        open_ = [_words(plan, one) for one in saga if one.step != ORIGIN and not is_finished(one.row)]
        return [("L1", f"saga {key!r} never ended: {'; '.join(open_) or 'no step has heard of it'}")]
    kept = _KEPT if outcome is Outcome.COMPLETED else _GONE
    for record in saga:
        words = f"saga {key!r} {outcome.value}, and {_words(plan, record)}"
        if not is_finished(record.row):
            wrong.append(("L2", f"{words}: it never learned the outcome"))
        elif record.row.outcome is not outcome or (record.step != ORIGIN and record.row.state not in kept):
            wrong.append(("S6", f"{words}, with the outcome {record.row.outcome.value!r}"))
        elif record.announced < record.version:
            wrong.append(("L6", f"{words}: it still has something to say after the end"))
    return wrong


def _words(plan: Plan, record: Record) -> str:
    row = record.row
    notes = [
        "parked" if row.parked is not Parked.NO else "",
        "waiting for an answer from outside" if row.pending else "",
        record.error,
    ]
    more = ", ".join(filter(None, notes))
    return f"step {plan.step(record.step).name!r} of {record.service!r} is {row.state.name}" + (f" ({more})" if more else "")
