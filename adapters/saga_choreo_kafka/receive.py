"""Consuming: one member of the service's group, its messages held in memory until they are done.

Kafka knows no acknowledgement of a single message and no delay, so both live here: what is overdue or was handed back is delivered again
from memory, while the partition's committed offset stays below it. Nobody sleeps and nobody is blocked: a partition that holds too much
is asked for nothing more, and what aiokafka has fetched of it waits there (of a paused partition it is thrown away, to be fetched again).
Before a rebalance takes partitions away, what is in flight may finish, and what is done is committed; what is kept over the rebalance
goes on where it was. Members are dynamic: an agent that ends leaves the group, so others take over at once, not after a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from saga_choreo.ports import Delivery
from saga_choreo_kafka.bare import (
    ConsumerRebalanceListener,
    InvalidSessionTimeoutError,
    KafkaError,
    OffsetAndMetadata,
    TopicPartition,
)
from saga_choreo_kafka.clients import Pace, committed_offsets, discard, make_consumer, start_consumer
from saga_choreo_kafka.names import Names
from saga_choreo_kafka.options import Options
from saga_choreo_kafka.peers import Peers, longer_session
from saga_choreo_kafka.window import Held, Window

__all__ = ["Receiver"]

_log = logging.getLogger("saga_choreo.kafka")

_POLL_S = 1.0
_TICK_S = 0.05
# What is in flight when partitions are taken away gets this long to be acknowledged.
_FLUSH_S = 1.0
_COMMIT_S = 5.0
_RESTART_S = 0.5


class _Listener(ConsumerRebalanceListener):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002  (all of them, always)
        await self._receiver.revoked()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        await self._receiver.assigned(assigned)


class Receiver:
    """`run` keeps a consumer up until it is cancelled. `topics` and `group` are set before."""

    def __init__(self, options: Options, names: Names, pace: Pace, on_metadata: Callable[[Any], None]) -> None:
        self._options = options
        self._peers: Peers | None = None
        self._names = names
        self._pace = pace
        self._on_metadata = on_metadata
        self._consumer: Any = None
        self._windows: dict[TopicPartition, Window] = {}
        self._ready: deque[Held] = deque()
        # (when, number, held): back in line at that time, unless its number is another one by then. Handed out ones all wait equally long.
        self._later: list[tuple[float, int, Held]] = []
        self._handed: deque[tuple[float, int, Held]] = deque()
        self._number = 0
        self._one_at_a_time = asyncio.Lock()
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 1
        self._moved = asyncio.Event()
        self._is_rebalancing = False
        self._received_at = 0.0
        self._is_receiving = False
        self._has_resigned = False
        self._broken: Exception | None = None
        # Of one partition: what waits there must not fill the room of the others.
        self._most = max(1, options.prefetch // 4)
        self.joined = asyncio.Event()
        self.topics: list[str] = []
        self.group = ""

    # --- the consumer's life

    async def run(self) -> None:
        """A consumer after the other, each until it breaks or the agent stalls."""
        try:
            while True:
                try:
                    await self._live()
                except InvalidSessionTimeoutError:
                    self._peers = self._peers or Peers(self._options.session, self._options.heartbeat)
                    self._options = replace(self._options, session=longer_session(self._options.session, self.group))
                    continue
                except Exception as exc:  # noqa: BLE001  (whatever it is, giving up for ever would be worse)
                    _log.warning("consuming as group %r broke off (%s); joining again", self.group, exc)
                finally:
                    await self._leave()
                while self._has_resigned:
                    await self._change(_POLL_S)
                await asyncio.sleep(_RESTART_S)
        finally:
            self._forget(self._windows)

    async def _live(self) -> None:
        consumer = make_consumer(
            self._options, f"saga-choreo {self.group}", self._pace, group=self.group, on_metadata=self._on_metadata
        )
        self._consumer, self._broken = consumer, None
        self._received_at = asyncio.get_running_loop().time()
        consumer.subscribe(self.topics, listener=_Listener(self))
        await start_consumer(consumer)
        self.joined.set()
        committing = asyncio.ensure_future(self._keep_committing())
        try:
            while not self._has_resigned and not committing.done() and self._broken is None:
                room = self._options.prefetch - self._held
                roomy = [partition for partition, window in self._windows.items() if len(window.held) < self._most]
                is_one_full = len(roomy) < len(self._windows)
                if room <= 0 or (is_one_full and not roomy):
                    await self._change(_POLL_S)
                    continue
                found = await consumer.getmany(
                    *(roomy if is_one_full else ()),
                    timeout_ms=int(1000 * (_TICK_S if is_one_full else _POLL_S)),
                    max_records=min(room, self._most),
                )
                for partition, records in found.items():
                    await self._take(partition, records)
            if self._broken is not None:
                raise self._broken
            if committing.done():
                committing.result()
        finally:
            committing.cancel()
            await asyncio.gather(committing, return_exceptions=True)

    async def _leave(self) -> None:
        """Commit what is done and leave the group: all that is held goes to whoever takes over."""
        consumer = self._consumer
        if consumer is None:
            return
        try:
            with contextlib.suppress(OSError, TimeoutError, KafkaError):
                await self._commit(self._windows, politely=False)
        finally:
            self._consumer = None
            self._forget(self._windows)
            self._is_rebalancing = False
            await discard(consumer)

    @property
    def _held(self) -> int:
        return sum(len(window.held) for window in self._windows.values())

    async def _change(self, timeout_s: float) -> None:
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._moved.wait()

    # --- partitions come and go

    async def revoked(self) -> None:
        """While we are still a member: the last moment to commit."""
        self._is_rebalancing = True
        until = asyncio.get_running_loop().time() + _FLUSH_S
        while self._is_busy() and asyncio.get_running_loop().time() < until:
            await self._change(_TICK_S)
        try:
            await self._commit(self._windows)
        except (OSError, TimeoutError, KafkaError) as exc:
            _log.info(
                "offsets of group %r could not be committed before a rebalance (%r); some messages come again", self.group, exc
            )

    def _is_busy(self) -> bool:
        return any(held.out for window in self._windows.values() for held in window.held.values())

    async def assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """What we had before and nobody else has worked on since goes on as it is; the rest begins at the committed offset."""
        consumer, mine = self._consumer, set(assigned)
        self._forget([partition for partition in self._windows if partition not in mine])
        try:
            async with asyncio.timeout(self._options.request_timeout):
                found = await committed_offsets(consumer, mine)
        except (OSError, TimeoutError, KafkaError) as exc:
            self._broken = exc  # with no offsets there is no way to tell what is ours: join again
            self._moved.set()
            return
        for partition, (committed, mark) in found.items():
            window = self._windows.get(partition)
            if window is not None and window.agrees_with(committed):
                consumer.seek(partition, window.position)
                continue
            self._forget([partition])
            self._windows[partition] = Window.taken_over(committed, mark)
        if self._peers is not None:
            self._peers.forget()
        self._is_rebalancing = False
        self._wake()

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Acknowledgements of what was held there are dropped from now on: it comes again, to us or to another."""
        for partition in list(partitions):
            window = self._windows.pop(partition, None)
            if window is not None:
                window.live = False
        self._ready = deque(held for held in self._ready if held.window.live)
        self._moved.set()

    def begin_again(self, topics: Iterable[str]) -> None:
        """These topics were made anew: offsets of the old ones say nothing."""
        again = [partition for partition in self._windows if partition.topic in set(topics)]
        self._forget(again)
        for partition in again:
            with contextlib.suppress(KafkaError):
                self._consumer.seek(partition, 0)
                self._windows[partition] = Window.taken_over(-1, "")

    # --- messages come

    async def _take(self, partition: TopicPartition, records: Sequence[Any]) -> None:
        window = self._windows.get(partition)
        if window is None:
            return
        first = records[0].offset
        if first < window.position:
            _log.warning("partition %s of %r began again at %d; it was made anew", partition.partition, partition.topic, first)
            self._forget([partition])
            window = self._windows[partition] = Window.taken_over(-1, "")
        elif first > window.position and window.committed >= 0:
            _log.warning(
                "%d offsets of partition %s of %r are gone: purged, or kept too short for this reader",
                first - window.position, partition.partition, partition.topic,
            )  # fmt: skip
        fresh = [window.hold(record.offset, record) for record in records]
        await self._mark(partition, window)
        if window.live:
            self._ready.extend(fresh)
        if len(self._ready) >= self._wanted:
            self._wake()

    async def _mark(self, partition: TopicPartition, window: Window) -> None:
        """Before anything of a partition that was taken over is handed out: should it kill us, the next owner can count it."""
        if window.marked:
            return
        window.marked, window.handed = True, window.position
        with contextlib.suppress(OSError, TimeoutError, KafkaError):
            await self._commit([partition], marks=True)

    # --- messages go out

    async def receive(self, max_messages: int, max_wait_s: float) -> list[Delivery]:
        async with self._one_at_a_time:
            loop = asyncio.get_running_loop()
            self._is_receiving, self._has_resigned = True, False
            self._moved.set()
            try:
                # Whoever takes and hands back all the time must not keep others from coming in.
                await asyncio.sleep(0)
                while not self._has_something():
                    await self._wait(1, self._until_due(loop.time()))
                until = loop.time() + max_wait_s
                while len(self._ready) < max_messages and (left := until - loop.time()) > 0:
                    await self._wait(max_messages, min(left, self._until_due(loop.time())))
                    self._has_something()
                return self._hand_out(max_messages, loop.time())
            finally:
                self._is_receiving, self._received_at = False, loop.time()

    async def _wait(self, wanted: int, timeout_s: float) -> None:
        self._wanted = wanted
        self._waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._waiter,), timeout=timeout_s)
        self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _has_something(self) -> bool:
        """Messages whose time has come get back in line. During a rebalance nothing goes out that may soon be another's."""
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now:
            self._back_in_line(*heapq.heappop(self._later)[1:])
        # What is done leaves the line from the front, so that it holds no more than what is not.
        while self._handed and (self._handed[0][0] <= now or not self._handed[0][2].is_open):
            self._back_in_line(*self._handed.popleft()[1:])
        return bool(self._ready) and not self._is_rebalancing

    def _back_in_line(self, number: int, held: Held) -> None:
        if held.number == number and held.is_open:
            held.out = False
            self._ready.append(held)

    def _until_due(self, now: float) -> float:
        due = min((line[0][0] for line in (self._later, self._handed) if line), default=now + _POLL_S)
        return min(max(due - now, 0.001), _POLL_S)

    def _hand_out(self, max_messages: int, now: float) -> list[Delivery]:
        batch: list[Delivery] = []
        while self._ready and len(batch) < max_messages and not self._is_rebalancing:
            held = self._ready.popleft()
            if not held.is_open:
                continue
            held.tries += 1
            held.out = True
            held.window.handed = max(held.window.handed, held.offset + 1)
            self._number = held.number = self._number + 1
            self._handed.append((now + self._options.ack_wait, held.number, held))
            batch.append(self._delivery(held))
        return batch

    def _delivery(self, held: Held) -> Delivery:
        record = held.record
        return Delivery(
            channel=self._names.channel(record.topic),
            headers={name: value.decode("utf-8", "replace") for name, value in record.headers},
            body=record.value or b"",
            redelivered=held.tries > 1,
            attempt=held.tries,
            token=held,
        )

    def _put_off(self, held: Held, until: float) -> None:
        self._number = held.number = self._number + 1
        heapq.heappush(self._later, (until, held.number, held))

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            held: Held = delivery.token
            held.window.settle(held)
            held.out = False
        self._moved.set()

    def release(self, deliveries: Sequence[Delivery], delay_s: float) -> None:
        now = asyncio.get_running_loop().time()
        for delivery in deliveries:
            held: Held = delivery.token
            if held.out and held.tries == delivery.attempt and held.is_open:
                held.out = False
                self._put_off(held, now + delay_s)
        self._moved.set()
        self._wake()

    # --- offsets

    async def _keep_committing(self) -> None:
        while True:
            await asyncio.sleep(self._options.commit_every)
            if self._is_rebalancing:
                continue
            self._resign_if_stalled()
            try:
                await self._commit(self._windows)
                if self._peers is not None and self._windows and self._peers.is_due():
                    await self._commit([min(self._windows)], marks=True)
                    await self._peers.look(self._consumer, self.topics, self.group)
            except (OSError, TimeoutError, KafkaError) as exc:
                # Refused because the group has moved on, or not answered: the next owner, or the next commit, mends it.
                _log.info("offsets of group %r were not committed (%r)", self.group, exc)
                await asyncio.sleep(_RESTART_S)

    async def _commit(self, partitions: Iterable[TopicPartition], *, marks: bool = False, politely: bool = True) -> None:
        """Never above a message that is not done. What somebody else owns by now is refused by the server, and is his."""
        consumer = self._consumer
        windows = [(partition, self._windows[partition]) for partition in partitions if partition in self._windows]
        due = {
            partition: (window, window.commit_at)
            for partition, window in windows
            if marks or window.commit_at > max(window.committed, 0)
        }
        if consumer is None:
            return
        mine = consumer.assignment()
        sign = self._peers.sign(consumer) if self._peers is not None else ""
        offsets = {tp: OffsetAndMetadata(at, window.mark + sign) for tp, (window, at) in due.items() if tp in mine}
        if not offsets:
            return
        async with asyncio.timeout(_COMMIT_S if politely else _FLUSH_S):
            await consumer.commit(offsets)
        for partition, offset in offsets.items():
            window = due[partition][0]
            window.committed = max(window.committed, offset.offset)

    def _resign_if_stalled(self) -> None:
        """Nobody has asked for messages for a while, and some are here: whoever shares the group shall have them."""
        if self._is_receiving or self._has_resigned or not self._held:
            return
        if asyncio.get_running_loop().time() - self._received_at > self._options.stall:
            _log.warning("group %r: this agent works on nothing any more; its partitions go to the others", self.group)
            self._has_resigned = True
            self._moved.set()
