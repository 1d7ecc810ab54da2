"""`sagas wait`: block until a saga has ended, and say with the exit code how."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from saga_choreo.cli.exits import ExitCode
from saga_choreo.cli.output import Output, emit_rows
from saga_choreo.cli.reading import find_saga, with_store
from saga_choreo.cli.views import plans_from, saga_row
from saga_choreo.core.states import saga_state
from saga_choreo.errors import WaitTimeout
from saga_choreo.model.states import Outcome, SagaState
from saga_choreo.ports import Reader, Record

__all__ = ["wait_for_saga"]

_COLUMNS = ("id", "key", "choreography", "state", "changed_at", "reason")
_LOOK_FIRST_S = 0.1
_LOOK_MAX_S = 1.0


def wait_for_saga(store_url: str | None, out: Output, word: str, timeout_s: float | None) -> int:
    """The exit code. Raises WaitTimeout and SagaNotFound."""

    async def work(store: Reader) -> tuple[Sequence[Record], dict[str, object]]:
        records = await _ended(store, word, timeout_s)
        return records, saga_row(records, plans_from(await store.definitions()))

    records, row = with_store(store_url, work)
    emit_rows([row], _COLUMNS, out, known=tuple(row))
    return ExitCode.DONE if saga_state(records) is SagaState.COMPLETED else ExitCode.ENDED_OTHERWISE


async def _ended(store: Reader, word: str, timeout_s: float | None) -> Sequence[Record]:
    give_up = None if timeout_s is None else time.monotonic() + timeout_s
    look_s = _LOOK_FIRST_S
    while True:
        records = await find_saga(store, word)
        word = str(records[0].saga_id)  # a key is looked for once
        if any(record.row.outcome is not Outcome.OPEN for record in records):
            return records
        if give_up is not None and time.monotonic() >= give_up:
            raise WaitTimeout(
                f"saga {word!r} has not ended within {timeout_s:g} s and goes on; wait again, or see what it waits for: "
                "saga-choreo sagas stuck"
            )
        left_s = look_s if give_up is None else min(look_s, give_up - time.monotonic())
        await asyncio.sleep(max(left_s, 0.0))
        look_s = min(2 * look_s, _LOOK_MAX_S)
