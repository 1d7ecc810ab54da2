"""The `defs` channel over a stream queue, which has no "last one per subject": that is made here, by those who watch.

A watcher reads the stream from its beginning. To know where the past ends it puts a mark of its own into the stream; what came
before the mark is handed out once, the last notice of each subject, oldest first. The server drops what is older than an hour, so a watcher
puts a notice in again that nobody has repeated for some minutes. Such a copy names the place (offset) of the notice it repeats, and
is passed over by whoever knows a later one: a slow watcher cannot bring an old notice back. After the stream was deleted, all that
a watcher knows goes into the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import uuid4

from pamqp import commands

from saga_choreo.errors import BrokerUnavailable
from saga_choreo.ports import Notice
from saga_choreo_rabbitmq import frames
from saga_choreo_rabbitmq.errors import WireError
from saga_choreo_rabbitmq.link import Link
from saga_choreo_rabbitmq.names import Names
from saga_choreo_rabbitmq.publish import Letter, Publisher
from saga_choreo_rabbitmq.wire import Channel, Wire

__all__ = ["Watch", "notice_letter"]

_log = logging.getLogger("saga_choreo.rabbitmq")

_SUBJECT, _MARK, _REPEATS, _SENT = "saga-subject", "saga-mark", "saga-repeats", "saga-sent"
_PREFETCH = 500
_RETRY_S = 1.5
# A sixth of what the stream keeps; half as long again at most, so that of many watchers one repeats for all.
_REPEAT_S = 600.0
_LOOK_S = 5.0
# Notices are few and small; more than this unread means the reader is gone or far too slow: start over.
_UNREAD_MAX = 100_000


class _Entry(NamedTuple):
    offset: int
    headers: Mapping[str, object]
    body: bytes


@dataclass(slots=True)
class _Known:
    """The last notice of one subject: the place of its first copy, and when it is to be put in again."""

    rank: int
    body: bytes
    due: float


def notice_letter(names: Names, notice: Notice, repeats: int | None = None) -> Letter:
    headers = {_SUBJECT: notice.subject, _SENT: str(int(time.time()))}
    if repeats is not None:
        headers[_REPEATS] = str(repeats)
    return Letter(names.exchange, "defs", headers, notice.body, True, f"defs.{notice.subject}")


class Watch:
    """One watcher. What it knows outlives its connection, and the stream."""

    def __init__(self, link: Link, publisher: Publisher, names: Names, declare: Callable[[Wire], Awaitable[None]]) -> None:
        self._link = link
        self._publisher = publisher
        self._names = names
        self._declare = declare
        self._known: dict[str, _Known] = {}
        self._unread: deque[_Entry] = deque()
        self._heard = asyncio.Event()
        self._mark = ""
        self._said = ""

    async def run(self) -> AsyncGenerator[Notice]:
        while True:
            await self._link.up.wait()
            wire = self._link.wire
            channel: Channel | None = None
            try:
                if wire is None:
                    raise WireError("lost")
                channel = await self._subscribe(wire)
                async with contextlib.aclosing(self._read(channel)) as notices:
                    async for notice in notices:
                        yield notice
            except (WireError, BrokerUnavailable) as exc:
                self._say(wire, exc)
                await asyncio.sleep(_RETRY_S)
            finally:
                if channel is not None:
                    self._leave(channel)

    def _say(self, wire: Wire | None, error: Exception) -> None:
        """Once for each thing that is wrong with the stream alone; what is wrong with the connection, the link says."""
        if wire is not None and wire.error is None and str(error) != self._said:
            self._said = str(error)
            _log.error("the stream %r of definitions cannot be read, and is tried again: %s", self._names.defs, error)

    async def _subscribe(self, wire: Wire) -> Channel:
        self._unread.clear()
        await self._declare(wire)
        channel = wire.channel()
        try:
            await channel.call(commands.Basic.Qos(0, _PREFETCH, False), commands.Basic.QosOk)
            channel.on_deliver = lambda arrived, content, body: self._take(channel, arrived, content, body)
            channel.on_cancel = channel.leave  # the stream was deleted
            channel.on_closed = self._closed
            consume = commands.Basic.Consume(0, self._names.defs, "watch", arguments={"x-stream-offset": "first"})
            await channel.call(consume, commands.Basic.ConsumeOk)
            self._mark = str(uuid4())
            mark = Letter(self._names.exchange, "defs", {_MARK: self._mark}, b"", True, "defs")
            (error,) = await self._publisher.send([mark])
            if error is not None:
                raise WireError(str(error))
        except BaseException:
            self._leave(channel)
            raise
        return channel

    def _closed(self, _error: WireError) -> None:
        self._heard.set()

    def _leave(self, channel: Channel) -> None:
        """Nobody waits for the server's answer: whoever watched may have been cancelled."""
        channel.on_deliver = channel.on_cancel = channel.on_closed = None
        channel.leave()

    def _take(self, channel: Channel, arrived: frames.Arrived, content: frames.Content, body: bytes) -> None:
        channel.wire.write(frames.ack(channel.number, arrived.tag))
        offset = content.table.get("x-stream-offset", 0)
        self._unread.append(_Entry(offset if isinstance(offset, int) else 0, content.table, body))
        self._heard.set()
        if len(self._unread) > _UNREAD_MAX:
            channel.leave()

    async def _read(self, channel: Channel) -> AsyncGenerator[Notice]:
        """Until the channel ends. The past first, condensed; then everything as it comes."""
        loop = asyncio.get_running_loop()
        known: dict[str, _Known] = {}
        has_caught_up, look_at = False, 0.0
        while channel.error is None:
            while self._unread:
                entry = self._unread.popleft()
                if entry.headers.get(_MARK) == self._mark:
                    has_caught_up = True
                    await self._put_again([(subject, one.body, 0) for subject, one in self._known.items() if subject not in known])
                    self._known = known
                    for subject, one in sorted(known.items(), key=lambda item: item[1].rank):
                        yield Notice(subject, one.body)
                elif (notice := self._learn(known, entry)) is not None and has_caught_up:
                    yield notice
            if has_caught_up and loop.time() >= look_at:
                look_at = loop.time() + _LOOK_S
                await self._repeat()
            await self._wait()
        raise channel.error

    async def _wait(self) -> None:
        self._heard.clear()
        if not self._unread:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._heard.wait()

    @staticmethod
    def _learn(known: dict[str, _Known], entry: _Entry) -> Notice | None:
        """What is new to us. A copy of what we know, or of something older, only tells that it was put in again."""
        subject, repeats = entry.headers.get(_SUBJECT), entry.headers.get(_REPEATS)
        if not isinstance(subject, str):
            return None
        rank = int(repeats) if isinstance(repeats, str) and repeats.isdecimal() else entry.offset
        last = known.get(subject)
        if last is not None and rank < last.rank:
            return None
        known[subject] = _Known(rank, entry.body, _due(entry))
        return Notice(subject, entry.body) if last is None or last.body != entry.body or last.rank != rank else None

    async def _repeat(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [(subject, one.body, one.rank) for subject, one in self._known.items() if one.due <= now]
        for subject, _, _ in due:
            self._known[subject].due = now + _RETRY_S * 10
        await self._put_again(due)

    async def _put_again(self, notices: Sequence[tuple[str, bytes, int]]) -> None:
        """Best effort: what is lost is due again, or still known when the connection is back."""
        if notices:
            await self._publisher.send([notice_letter(self._names, Notice(subject, body), rank) for subject, body, rank in notices])


def _due(entry: _Entry) -> float:
    sent = entry.headers.get(_SENT)
    age = max(time.time() - int(sent), 0.0) if isinstance(sent, str) and sent.isdecimal() else _REPEAT_S
    jitter = random.random()  # noqa: S311  (not a secret)
    return asyncio.get_running_loop().time() + max(_REPEAT_S * (1 + jitter / 2) - age, _LOOK_S * jitter)
