"""What this process knows to be published and the store does not say yet: the decisions of the relay, without its waiting.

Pure bookkeeping, used by the relay and by the simulator, so that both decide alike which records are published again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from saga_choreo.model.record import ORIGIN, Record, RecordKey
from saga_choreo.ports.store import AnnouncedMark
from saga_choreo.runtime.operations import Publication
from saga_choreo.runtime.timing import Limits

__all__ = ["LOOKS", "Announcing", "unannounced_before"]

# So many looks at what is published and may have to be written down before any other agent's scan takes it for lost
# (`unannounced_after_s`): after six of them it is. Most sagas have gone on by then, which writes it down for nothing.
LOOKS, _OLD_AFTER = 8, 6
_NOTED_MIN = 1_000


def unannounced_before(now_ms: int, limits: Limits) -> tuple[int, int]:
    """Records that were changed before these times (the second is for starts) and are not announced belong to the scan."""
    return now_ms - int(1000 * limits.unannounced_after_s), now_ms - int(1000 * limits.start_unannounced_after_s)


class Announcing:
    """`known` maps a record to the version that is published; bounded by what a second's work can publish."""

    def __init__(self) -> None:
        self.known: dict[RecordKey, int] = {}
        self._under_way: dict[RecordKey, int] = {}
        # What has been published since each of the last looks, and before them.
        self._recent: deque[list[RecordKey]] = deque([[]])
        self._old: list[RecordKey] = []
        self._noted = 0

    def begin(self, publications: Sequence[Publication]) -> None:
        """These are on their way to the broker: nobody here publishes them a second time."""
        for publication in publications:
            self._under_way[publication.key] = publication.version

    def end(self, publications: Sequence[Publication]) -> None:
        """They are not under way any more, however it went."""
        for publication in publications:
            self._under_way.pop(publication.key, None)

    def confirm(self, publications: Sequence[Publication], answers: Sequence[Exception | None]) -> None:
        """Note the publications of which every message was confirmed; `answers` are one per message, in order."""
        at = 0
        for publication in publications:
            mine = answers[at : at + len(publication.messages)]
            at += len(publication.messages)
            if not any(mine) and publication.version > self.known.get(publication.key, 0):
                self.known[publication.key] = publication.version
                self._recent[-1].append(publication.key)
                self._noted += 1
        if self._noted > _NOTED_MIN + 2 * len(self.known):
            # Most are written down by now: a session that writes all down at once never asks for the old ones.
            self._recent = deque([key for key in keys if key in self.known] for keys in self._recent)
            self._noted = sum(map(len, self._recent))

    def saved(self, records: Sequence[Record]) -> None:
        """What the store has written down need not be remembered."""
        for record in records:
            known = self.known.get(record.record_key)
            if known is not None and record.announced >= known:
                del self.known[record.record_key]

    def marks(self) -> list[AnnouncedMark]:
        return [AnnouncedMark(key, version) for key, version in self.known.items()]

    def old_marks(self) -> list[AnnouncedMark]:
        """Those that were known some looks ago already. Of the others most will be written down by the record's own next update."""
        self._recent.append([])
        while len(self._recent) > _OLD_AFTER:
            self._old += self._recent.popleft()
        self._old = [key for key in dict.fromkeys(self._old) if key in self.known]
        return [AnnouncedMark(key, self.known[key]) for key in self._old]

    def start_marks(self) -> list[AnnouncedMark]:
        """Those of starts that nothing has followed yet: the other agents of the service look for these very soon."""
        return [AnnouncedMark(key, version) for key, version in self.known.items() if key.step == ORIGIN and version == 1]

    def written(self, marks: Sequence[AnnouncedMark]) -> None:
        for mark in marks:
            if self.known.get(mark.key) == mark.version:
                del self.known[mark.key]

    def forget(self, keys: Sequence[RecordKey]) -> None:
        for key in keys:
            self.known.pop(key, None)

    def covers(self, record: Record) -> bool:
        """This version is published already, or on its way."""
        key = record.record_key
        return self.known.get(key, 0) >= record.version or self._under_way.get(key, 0) >= record.version
