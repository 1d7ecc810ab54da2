"""Sagas whose records need not be claimed, since it is known what there is: none, or those that this process has committed last.

A saga is probably new here when its first event has come, and nothing says that it came before. A claim only finds out that there is no
record yet; the insert finds it out again. And where the service has no other agent, its records are probably as this process has left
them; the update finds it out, by their version. So the batch presumes it, and where a write meets something else after all, nothing of
the batch is committed, and it is done once more with claims. Presumed is only what is usually right: of a message that comes again the
records are claimed; and after a wrong guess everything is, for a while, the longer the more guesses were wrong.

A write finds out about its own record only: what is recalled and not written is claimed before the commit (`verified`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence, Set
from typing import Any
from uuid import UUID

from saga_choreo.errors import StoreConflict
from saga_choreo.model.envelope import Envelope, MessageKind
from saga_choreo.model.ids import started_ms
from saga_choreo.model.record import Record
from saga_choreo.model.states import Outcome
from saga_choreo.ports.broker import Delivery
from saga_choreo.ports.store import AnnouncedMark
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.operations import Claim, Operation, Pause
from saga_choreo.runtime.workspace import Workspace

__all__ = ["Presuming", "in_hands", "verified"]

_DONE, _OPEN = MessageKind.DONE, Outcome.OPEN
# A batch waits so often, and so long each time, for another of its process that has the same saga.
_HOLDS_MAX, _HOLD_S = 100, 0.01

# Sagas that are remembered: what many agents have in their hands at once, in half a megabyte.
_SEEN_MAX = 4096
_ORIGINS_MAX = 1024
# After a wrong guess, doubling with each that follows soon: at worst one batch a minute is done twice.
_WARY_FIRST_MS, _WARY_MAX_MS = 500, 60_000
# Sagas whose records are kept, for so long, and with payloads of so many bytes at most.
_KEPT_MAX, _KEPT_MS, _KEPT_BYTES_MAX = 1024, 60_000, 4096
# Of an older saga a missing record might mean that it was forgotten (S12): never presumed.
_AGE_MAX_MS = 3_600_000


class Presuming:
    def __init__(self, service: str, horizon_s: float, is_alone: Callable[[], bool] = bool) -> None:
        """`is_alone`: the service has no other agent."""
        self._service = service
        self._is_alone = is_alone
        self._kept: dict[UUID, tuple[int, Sequence[Record]]] = {}
        self._in_hands: set[UUID] = set()
        # How often what was recalled was not as the store had it.
        self.misses = 0
        self._age_max_ms = min(_AGE_MAX_MS, int(500 * horizon_s))
        self._seen: dict[UUID, None] = {}
        # Who starts sagas of which definition, by records that are here: a message that names somebody else is looked at.
        self._origins: set[tuple[str, str]] = set()
        self._wary_ms = _WARY_FIRST_MS
        self._wary_until_ms = 0

    def is_new(self, envelope: Envelope, known: Known, delivery: Delivery | None, now_ms: int) -> bool:
        """Asked once a message: whether this is presumably the first that its saga has for this service. It is for one step with one
        in-edge, and no other record here can have to do with it."""
        if delivery is None or delivery.attempt > 1 or delivery.redelivered or now_ms < self._wary_until_ms:
            return False
        if envelope.kind is not _DONE or envelope.reannounced or envelope.origin == self._service:
            return False
        if len(known.own) != 1 or len(known.own[0].in_edges) != 1 or known.options(known.own[0].index).is_guarded:
            return False
        if known.own[0].in_edges[0][1] != envelope.event:  # it makes no record here, so no insert would find out
            return False
        if (envelope.definition, envelope.origin) not in self._origins:
            return False
        if envelope.saga_id in self._seen or abs(now_ms - started_ms(envelope.saga_id)) >= self._age_max_ms:
            return False
        self._note((envelope.saga_id,))  # a copy of this message may come while its batch is under way
        return True

    def hold(self, sagas: Set[UUID]) -> bool:
        """Whether no other batch of this process has one of these in its hands; then this one has."""
        is_free = self._in_hands.isdisjoint(sagas)
        if is_free:
            self._in_hands |= sagas
        return is_free

    def let_go(self, mine: set[UUID], *, but: Set[UUID] = frozenset()) -> None:
        """Only by who holds them; what is let go is taken out of `mine`."""
        over = mine - but
        self._in_hands -= over
        mine -= over

    def keep(self, sagas: Iterable[Sequence[Record]], now_ms: int) -> None:
        """All records of each of these sagas here, as they are committed."""
        is_alone = self._is_alone()
        for records in sagas:
            saga_id = records[0].saga_id
            self._kept.pop(saga_id, None)
            if is_alone and all(map(_is_light, records)):
                self._kept[saga_id] = (now_ms, records)
        while len(self._kept) > _KEPT_MAX:
            del self._kept[next(iter(self._kept))]

    def recall(self, saga_id: UUID, now_ms: int) -> Sequence[Record]:
        """All records of the saga here, presumably; none when that is not known. They are given once: until they are kept again, somebody
        is about to change them."""
        kept_ms, records = self._kept.pop(saga_id, (0, ()))
        is_good = now_ms >= self._wary_until_ms and 0 <= now_ms - kept_ms < _KEPT_MS and self._is_alone()
        return records if is_good else ()

    def drop(self, sagas: Iterable[UUID]) -> None:
        """Something else is about to change the records of these, or has."""
        for saga_id in sagas:
            self._kept.pop(saga_id, None)

    def forget(self) -> None:
        """The store may be another by now, or may have lost what was committed last: the same versions may say something else."""
        self._kept.clear()

    def marked(self, marks: Iterable[AnnouncedMark]) -> None:
        """The store says by now that these are published."""
        for key, version in marks:
            kept_ms, records = self._kept.get(key.saga_id, (0, ()))
            if any(record.record_key == key and record.announced < version for record in records):
                now = [one.but(announced=min(version, one.version)) if one.record_key == key else one for one in records]
                self._kept[key.saga_id] = (kept_ms, now)

    def saw(self, saved: Sequence[Record], *, ended: Iterable[UUID] = ()) -> None:
        """These are committed; and the records of other sagas were ended by the store itself."""
        self.drop(ended)
        self._note(record.saga_id for record in saved)
        if len(self._origins) > _ORIGINS_MAX:
            self._origins.clear()
        self._origins.update((record.definition, record.origin) for record in saved)

    def _note(self, sagas: Iterable[UUID]) -> None:
        for saga_id in sagas:
            self._seen[saga_id] = None
        while len(self._seen) > _SEEN_MAX:
            del self._seen[next(iter(self._seen))]

    def was_wrong(self, now_ms: int) -> None:
        """A batch met a conflict: probably over what it presumed."""
        was_long_ago = now_ms - self._wary_until_ms > _WARY_MAX_MS
        self._wary_ms = _WARY_FIRST_MS if was_long_ago else min(2 * self._wary_ms, _WARY_MAX_MS)
        self._wary_until_ms = now_ms + self._wary_ms


def _is_light(record: Record) -> bool:
    """Worth keeping: it has not ended, holds no lock, and carries little."""
    if record.row.outcome is not _OPEN or record.lock:
        return False
    payloads = (*record.inputs.values(), *record.results.values(), record.kept or b"", record.undo_result or b"")
    return sum(map(len, payloads)) <= _KEPT_BYTES_MAX


def verified(presuming: Presuming, recalled: Iterable[Record], sagas: Set[UUID], ws: Workspace) -> Generator[Operation, Any, None]:
    """Of these sagas, what was recalled and is not going to be written: no version would find out that it was another record by then,
    and a message that would have changed it would be taken for done. Claims it; raises StoreConflict where it is not as it was."""
    mine = [record for record in recalled if record.saga_id in sagas]
    doubtful = {record.saga_id for record in mine if ws.get(record.record_key) is record}
    if doubtful:
        there = yield Claim(tuple(sorted(doubtful)))
        known = {record.record_key: record.version for record in mine if record.saga_id in doubtful}
        if {record.record_key: record.version for record in there} != known:
            presuming.misses += 1
            raise StoreConflict("records are not as this process has committed them last; claim them and decide anew")


def in_hands(presuming: Presuming, sagas: set[UUID]) -> Generator[Operation, Any, set[UUID]]:
    """One batch of a process works on a saga at a time: two would only wait for each other's rows, or do things twice. All of them or
    none, so that nobody waits for who waits. What takes too long is left to the rows: then none is held."""
    for _ in range(_HOLDS_MAX):
        if presuming.hold(sagas):
            return sagas
        yield Pause(_HOLD_S)
    return set()
