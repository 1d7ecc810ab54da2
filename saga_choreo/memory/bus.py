"""What brokers of one name share: a queue per service, the bindings, the kept notices, the dead letters.

A queue behaves as a JetStream durable: a message handed out is invisible for `ack_wait`, then it is delivered again; a
message for a channel that no service has ever bound is dropped. Pure bookkeeping: time comes in as an argument.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from weakref import WeakValueDictionary

from saga_choreo.ports import Channel, ChannelKind, Notice, Outgoing

__all__ = ["Bus", "Entry", "Queue", "Watch", "bus_of"]


@dataclass(slots=True, eq=False)
class Entry:
    """One message in one queue. `due` is when it becomes visible again; None while it is visible."""

    message: Outgoing
    attempt: int = 0
    due: float | None = None
    done: bool = False


class Queue:
    """One service's messages. Whoever waits for one leaves a future in `waiting`."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self._ready: deque[Entry] = deque()
        self._hidden: list[tuple[float, int, Entry]] = []
        self._order = count()
        self.size = 0

    def put(self, message: Outgoing) -> None:
        self.size += 1
        self._ready.append(Entry(message))
        self._wake()

    def take(self, limit: int, now: float, ack_wait_s: float) -> list[Entry]:
        self._reveal(now)
        taken: list[Entry] = []
        while self._ready and len(taken) < limit:
            entry = self._ready.popleft()
            if not entry.done:
                entry.attempt += 1
                self._hide(entry, now + ack_wait_s)
                taken.append(entry)
        return taken

    def ack(self, entry: Entry) -> None:
        """Counts for the message, whichever of its deliveries is meant."""
        if not entry.done:
            entry.done = True
            self.size -= 1

    def release(self, entry: Entry, attempt: int, now: float, delay_s: float) -> None:
        """Only the latest delivery can be handed back; an older one is somebody else's by now."""
        if entry.done or entry.attempt != attempt or entry.due is None:
            return
        if delay_s > 0:
            self._hide(entry, now + delay_s)
        else:
            entry.due = None
            self._ready.append(entry)
        self._wake()

    def next_due(self) -> float | None:
        """When the next hidden message may come back; it may be early, never late."""
        while self._hidden and self._hidden[0][2].done:
            heappop(self._hidden)
        return self._hidden[0][0] if self._hidden else None

    def _hide(self, entry: Entry, until: float) -> None:
        entry.due = until
        heappush(self._hidden, (until, next(self._order), entry))

    def _reveal(self, now: float) -> None:
        while self._hidden and (self._hidden[0][2].done or self._hidden[0][0] <= now):
            until, _, entry = heappop(self._hidden)
            if not entry.done and entry.due == until:
                entry.due = None
                self._ready.append(entry)

    def _wake(self) -> None:
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)


class Watch:
    """One reader of the notices. Unread ones are kept by subject: a slow reader sees the last of each, and memory stays bounded."""

    def __init__(self, kept: dict[str, Notice]) -> None:
        self.unread = dict(kept)
        self.news = asyncio.Event()

    def take(self) -> list[Notice]:
        unread, self.unread = self.unread, {}
        self.news.clear()
        return list(unread.values())


@dataclass(eq=False)
class Bus:
    """`limit` bounds every queue: full means refuse new, never drop old."""

    limit: int = 100_000
    queues: dict[str, Queue] = field(default_factory=dict[str, Queue])
    readers: dict[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    notices: dict[str, Notice] = field(default_factory=dict[str, Notice])
    watches: list[Watch] = field(default_factory=list["Watch"])
    dead_letters: list[Outgoing] = field(default_factory=list[Outgoing])

    def bind(self, service: str, events: tuple[str, ...]) -> Queue:
        """Another release of the service may read other events, and runs beside this one: nothing is unbound here."""
        self.readers[service] = tuple(dict.fromkeys((*self.readers.get(service, ()), *events)))
        return self.queues.setdefault(service, Queue())

    def targets(self, channel: Channel) -> list[Queue]:
        return [self.queues[service] for service in self.receivers(channel)]

    def receivers(self, channel: Channel) -> list[str]:
        """The services that a message on this channel goes to."""
        match channel.kind:
            case ChannelKind.EVENT:
                return [service for service, events in self.readers.items() if channel.name in events]
            case ChannelKind.CONTROL:
                return [channel.name] if channel.name in self.queues else []
            case ChannelKind.OUTCOME:
                return list(self.queues)
            case ChannelKind.DEFS | ChannelKind.DLQ | ChannelKind.OBSERVE:
                return []

    def notify(self, notice: Notice) -> None:
        """Told in the order in which each subject was given last."""
        _put_last(self.notices, notice)
        for watch in self.watches:
            _put_last(watch.unread, notice)
            watch.news.set()


def _put_last(notices: dict[str, Notice], notice: Notice) -> None:
    notices.pop(notice.subject, None)
    notices[notice.subject] = notice


_buses: WeakValueDictionary[tuple[str, str], Bus] = WeakValueDictionary()


def bus_of(name: str, prefix: str) -> Bus:
    """The bus of this name in this process; it lives as long as a broker (or anybody else) holds it."""
    bus = _buses.get((name, prefix))
    if bus is None:
        bus = _buses[(name, prefix)] = Bus()
    return bus
