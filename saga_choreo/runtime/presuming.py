"""Sagas that are probably new here: their first event has come, and nothing says that it came before. They are not claimed.

A claim only finds out that there is no record yet; the insert finds it out again. So the batch presumes it, and where the insert meets a
record after all, nothing of the batch is committed, and it is done once more with claims. Presumed is only what is usually right:
of a saga seen lately in this process, or of a message that comes again, the record is claimed; and after a wrong guess everything is, for
a while, the longer the more guesses were wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from saga_choreo.model.envelope import Envelope, MessageKind
from saga_choreo.model.ids import started_ms
from saga_choreo.ports.broker import Delivery
from saga_choreo.runtime.catalog import Known

__all__ = ["Presuming"]

# Sagas that are remembered: what many agents have in their hands at once, in half a megabyte.
_SEEN_MAX = 4096
# After a wrong guess, doubling with each that follows soon: at worst one batch a minute is done twice.
_WARY_FIRST_MS, _WARY_MAX_MS = 500, 60_000
# Of an older saga a missing record might mean that it was forgotten (S12): never presumed.
_AGE_MAX_MS = 3_600_000


class Presuming:
    def __init__(self, service: str, horizon_s: float) -> None:
        self._service = service
        self._age_max_ms = min(_AGE_MAX_MS, int(500 * horizon_s))
        self._seen: dict[UUID, None] = {}
        self._wary_ms = _WARY_FIRST_MS
        self._wary_until_ms = 0

    def is_new(self, envelope: Envelope, known: Known, delivery: Delivery | None, now_ms: int) -> bool:
        """Asked once a message: whether this is presumably the first that its saga has for this service. It is for one step with one
        in-edge, and no other record here can have to do with it."""
        if delivery is None or delivery.attempt > 1 or delivery.redelivered or now_ms < self._wary_until_ms:
            return False
        if envelope.kind is not MessageKind.DONE or envelope.reannounced or envelope.origin == self._service:
            return False
        if len(known.own) != 1 or len(known.own[0].in_edges) != 1 or known.options(known.own[0].index).is_guarded:
            return False
        if known.own[0].in_edges[0][1] != envelope.event:  # it makes no record here, so no insert would find out
            return False
        if envelope.saga_id in self._seen or abs(now_ms - started_ms(envelope.saga_id)) >= self._age_max_ms:
            return False
        self.saw((envelope.saga_id,))  # a copy of this message may come while its batch is under way
        return True

    def saw(self, sagas: Iterable[UUID]) -> None:
        """There are records of these now."""
        for saga_id in sagas:
            self._seen[saga_id] = None
        while len(self._seen) > _SEEN_MAX:
            del self._seen[next(iter(self._seen))]

    def was_wrong(self, now_ms: int) -> None:
        """A batch met a conflict: probably over what it presumed."""
        was_long_ago = now_ms - self._wary_until_ms > _WARY_MAX_MS
        self._wary_ms = _WARY_FIRST_MS if was_long_ago else min(2 * self._wary_ms, _WARY_MAX_MS)
        self._wary_until_ms = now_ms + self._wary_ms
