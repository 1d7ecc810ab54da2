"""What happens when a semantic lock is held by another saga: wait-die by age. Pure.

An older saga waits, a younger one refuses: whoever waits is older than whom it waits for, so a circle of waiting sagas cannot close,
in one service or over several. Ages are read from the sagas' ids (UUIDv7), so all services agree on them without a clock.
"""

from __future__ import annotations

from saga_choreo.model.ids import started_ms
from saga_choreo.model.record import Record
from saga_choreo.model.states import State
from saga_choreo.ports.store import SagaLock
from saga_choreo.runtime.declare.options import OnConflict
from saga_choreo.runtime.operations import HeldBack, Rejected

__all__ = ["on_conflict"]

_ASK_FIRST_MS = 50
_ASK_MAX_MS = 2000


def on_conflict(record: Record, held: SagaLock, policy: OnConflict, now_ms: int, chance: float) -> Rejected | HeldBack:
    """Refuse, or ask again later: after an eighth of the saga's age, so that the pauses grow and nothing has to be counted."""
    why = f"lock {held.name!r} is held by saga {str(held.saga_id)!r}"
    # A call that may have been made (before the step had a lock, say) is not known not to have happened: no refusing any more.
    may_refuse = record.row.state is State.WAITING or record.tried_since_ms is None
    if may_refuse and (policy == "refuse" or held.saga_id < record.saga_id):
        return Rejected(why, was_run=False)
    pause_ms = min(max((now_ms - started_ms(record.saga_id)) // 8, _ASK_FIRST_MS), _ASK_MAX_MS)
    return HeldBack(now_ms + int(pause_ms * (0.5 + chance)), why)
