"""What one agent holds of one partition, and how far the partition may be committed: pure bookkeeping, no I/O.

Kafka remembers one number per partition and group. Everything below it is done, so it must never pass a message that is not. A
message that waits for its acknowledgement, or was handed back, is held here in memory and keeps the number where it is; when the
process dies the next owner begins there. With the number goes a mark (Kafka's free text beside an offset): how far messages have
been handed out, and by how many owners in a row without that region getting done. From it the next owner counts deliveries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Held", "Window", "read_mark"]


@dataclass(slots=True, eq=False)
class Held:
    """One record that is not done. `out` while somebody works on it; `tries` counts deliveries; `number` is the receiver's."""

    window: Window
    offset: int
    record: Any
    tries: int
    out: bool = False
    number: int = 0

    @property
    def is_open(self) -> bool:
        """Ours, and not done."""
        return self.window.live and self.window.held.get(self.offset) is self


def read_mark(text: str) -> tuple[int, int]:
    """(owners so far, end of what they were handed); nothing for a text that is not ours. Who wrote it may follow (`peers`)."""
    owners, _, end = text.partition(" ")[0].partition(":")
    return (int(owners), int(end)) if owners.isdecimal() and end.isdecimal() else (0, 0)


@dataclass(slots=True, eq=False)
class Window:
    """`position` is the offset to fetch next, `committed` what the server was told. `live` ends with the ownership."""

    position: int
    committed: int
    owners: int = 0
    region_end: int = 0
    handed: int = 0
    live: bool = True
    marked: bool = False
    held: dict[int, Held] = field(default_factory=dict[int, Held])

    @classmethod
    def taken_over(cls, committed: int, mark: str) -> Window:
        """`committed` may be -1: the group has never got anything of this partition done."""
        owners, end = read_mark(mark)
        if end <= committed:
            owners, end = 0, 0
        return cls(position=max(committed, 0), committed=committed, owners=owners, region_end=end)

    def tries_before(self, offset: int) -> int:
        return self.owners if offset < self.region_end else 0

    def hold(self, offset: int, record: Any) -> Held:
        """Offsets come in ascending order, so the first one held is the lowest."""
        held = self.held[offset] = Held(self, offset, record, self.tries_before(offset))
        self.position = offset + 1
        return held

    def settle(self, held: Held) -> bool:
        """Done. False if this was not ours to settle any more: the partition has another owner, or it was settled before."""
        if not held.is_open:
            return False
        del self.held[held.offset]
        held.record = None  # whoever still has it in a line need not keep it in memory
        return True

    @property
    def commit_at(self) -> int:
        """Below this everything is done."""
        return next(iter(self.held), self.position)

    @property
    def mark(self) -> str:
        """To be committed beside `commit_at`."""
        owners = self.owners + 1 if self.commit_at < self.region_end else 1
        return f"{owners}:{max(self.handed, self.region_end)}"

    def agrees_with(self, committed: int) -> bool:
        """After a rebalance: nobody else has worked on this partition meanwhile, so what is held here is still what is to do."""
        return self.committed <= committed <= self.commit_at
