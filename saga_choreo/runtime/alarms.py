"""What somebody should look at, said in the log once: that a step is parked, and what to do next."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from saga_choreo.core.notices import notices
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.model.states import Parked
from saga_choreo.runtime.catalog import Catalog

__all__ = ["ParkedLog"]

_log = logging.getLogger("saga_choreo.step")
# Beyond, the oldest are forgotten, and told once more if they change.
_KNOWN_MAX = 10_000
_PARKED = (Parked.PARKED, Parked.PASSED)


class ParkedLog:
    """A parked record changes for other reasons too: one line for each time it parks."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[tuple[RecordKey, int], None] = {}

    def saved(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.row.parked in _PARKED:
                self._note(record)

    def _note(self, record: Record) -> None:
        """A step that parks again after a person's word has another round."""
        rounds = (note.parking.round for note in notices(record) if note.kind is MessageKind.PARKED)
        which = (record.record_key, next(rounds, 0))
        if which in self._known:
            return
        if len(self._known) >= _KNOWN_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[which] = None
        known = self._catalog.get(record.definition)
        step = f"step {record.step}" if known is None else known.plan.step(record.step).name
        _log.error(
            "step %r of saga %s (key %r) is parked after attempt %d: %s; its saga waits for a person: saga-choreo steps show %s %s",
            step,
            record.saga_id,
            record.key,
            record.row.attempt,
            record.error or "no error is noted",
            record.saga_id,
            step,
            extra={"saga_id": str(record.saga_id), "step_id": step, "event": "step.parked"},
        )
