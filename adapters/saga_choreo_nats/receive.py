"""Consuming: lingering pull requests on the service's durables, merged into one bounded buffer.

The server sends only what was asked for, and only `receive` asks: while the caller works, nothing more is requested. What
is buffered, handed out and asked for together stays within a window; the window halves when a message had to wait in the
buffer for too long (the agent is slower than it asks) and grows while the buffer runs empty.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from time import monotonic
from typing import Any

from nats import errors as nats_errors

from saga_choreo.ports import ChannelKind, Delivery
from saga_choreo_nats.link import Link
from saga_choreo_nats.names import Names
from saga_choreo_nats.options import Options
from saga_choreo_nats.sink import Sink
from saga_choreo_nats.topology import GROUP, knows_ranks

__all__ = ["Receiver"]

# A pull lingers this long on the server at most; it says every few seconds that it is still there.
_PULL_S = 30.0
_IDLE_S = 2.0
# Two and a half missed heartbeats: the pull is gone (leader moved, durable deleted), ask again on a fresh inbox.
_SILENT_S = 5.0
_LEAVE_S = 2
_WINDOW_MIN = 16
_PULL = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d,"group":"%b","priority":%d}'


class _Lane:
    """One durable, and what we have asked it for. `take` runs inside the client's parser: it only files things away."""

    def __init__(self, owner: Receiver, stream: str, durable: str) -> None:
        self.stream, self.durable = stream, durable
        self._owner = owner
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._inbox = ""
        self._subscription: Any = None
        self.asked = 0
        self.heard = 0.0

    async def attach(self, client: Any) -> None:
        """A fresh inbox; the server drops pull requests whose inbox is gone."""
        old, self._subscription = self._subscription, None
        if old is not None and old._conn is client:
            await old.unsubscribe()
        self._inbox = client.new_inbox()
        self.asked = 0
        self.heard = monotonic()
        self._subscription = await client.subscribe(self._inbox, future=Sink(self._take))

    async def let_end(self, client: Any) -> None:
        if self._subscription is not None and self._subscription._conn is client:
            await client.let_end(self._subscription)

    async def ask(self, client: Any, batch: int, rank: int, linger_s: float) -> None:
        self.asked += batch
        body = _PULL % (batch, int(linger_s * 1e9), int(_IDLE_S * 1e9), GROUP.encode(), rank)
        await client.publish(self._next, body, self._inbox)

    def _take(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None) -> None:
        self.heard = now = monotonic()
        headers = headers or {}
        if subject != self._inbox:
            self.asked -= 1
            self._owner.arrived(subject, reply, data, headers, now)
            return
        status = headers.get("Status", "")
        if status == "100":
            return
        self.asked = max(0, self.asked - int(headers.get("Nats-Pending-Messages") or self.asked))
        if status in ("400", "503") or "Deleted" in headers.get("Description", ""):
            self._owner.damaged()
        if status != "400":  # else it would be refused again at once
            self._owner.wake()


class Receiver:
    """One per broker. `attach` on every fresh client."""

    def __init__(self, link: Link, names: Names, options: Options) -> None:
        self._link = link
        self._names = names
        self._ack_wait = options.ack_wait
        # An agent of a low rank that hangs must not get again what it did not acknowledge. Two heartbeats are the server's least.
        self._linger_s = min(_PULL_S, max(2 * _IDLE_S, options.ack_wait))
        self._window_max = options.prefetch
        self._window = min(_WINDOW_MIN * 4, options.prefetch)
        self._lanes: list[_Lane] = []
        # With the time of arrival.
        self._buffer: deque[tuple[Delivery, float]] = deque()
        # Handed out and not settled, by acknowledgement subject, oldest first; after ack_wait they are the server's again.
        self._out: dict[str, float] = {}
        # Those of them that are outcomes: they wait, to be applied many at a time.
        self._waiting: set[str] = set()
        self._one_at_a_time = asyncio.Lock()
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 1
        self._rank, self._held_max = 0, options.prefetch
        # Some lane has nothing asked for.
        self._lacks_room = False
        self._knows_ranks = False

    def bind(self, lanes: dict[str, str]) -> None:
        """Stream -> durable."""
        self._lanes = [_Lane(self, stream, durable) for stream, durable in lanes.items()]

    async def attach(self, client: Any) -> None:
        self._knows_ranks = knows_ranks(client)
        for lane in self._lanes:
            await lane.attach(client)
        self.wake()

    def prefer(self, rank: int, held_max: int | None) -> bool:
        """What is asked for already stays as it is."""
        self._rank = rank
        self._held_max = self._window_max if held_max is None or not self._knows_ranks else held_max
        return self._knows_ranks

    def arrived(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str], now: float) -> None:
        parts = reply.split(".")
        # $JS.ACK.<stream>.<durable>.<delivered>..., or with domain and account hash before the stream.
        attempt = int(parts[4] if len(parts) == 9 else parts[6])
        delivery = Delivery(
            channel=self._names.channel(subject),
            headers=headers,
            body=data,
            redelivered=attempt > 1,
            attempt=attempt,
            token=reply,
        )
        self._buffer.append((delivery, now))
        if len(self._buffer) >= self._wanted:
            self.wake()

    def damaged(self) -> None:
        self._link.damaged.set()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self, max_messages: int, max_wait_s: float) -> list[Delivery]:
        async with self._one_at_a_time:
            await self._ask_if_up()
            while not self._buffer:
                await self._wait(1, _IDLE_S)
                await self._ask_if_up()
            until = monotonic() + max_wait_s
            while len(self._buffer) < max_messages and (left := until - monotonic()) > 0:
                await self._wait(max_messages, left)
            return self._hand_out(max_messages, monotonic())

    async def _wait(self, wanted: int, timeout_s: float) -> None:
        self._wanted = wanted
        self._waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._waiter,), timeout=timeout_s)
        self._waiter = None

    def _hand_out(self, max_messages: int, now: float) -> list[Delivery]:
        """What waited so long that the server is about to send it to somebody else is left to that somebody."""
        stale = now - 0.75 * self._ack_wait
        batch: list[Delivery] = []
        late = False
        while self._buffer and len(batch) < max_messages:
            delivery, arrived = self._buffer.popleft()
            if arrived < stale:
                late = True
                continue
            batch.append(delivery)
            self._out[delivery.token] = now
            if delivery.channel.kind is ChannelKind.OUTCOME:
                self._waiting.add(delivery.token)
        if late:
            self._window = max(_WINDOW_MIN, self._window // 2)
        elif not self._buffer:
            self._window = min(self._window_max, self._window + len(batch))
        return batch

    async def _ask_if_up(self) -> None:
        # The connection may break before the link has noticed: the fresh client's `attach` begins anew.
        with contextlib.suppress(nats_errors.Error, OSError):
            await self._ask()

    async def _ask(self) -> None:
        """Top up what is asked for, in steps of at least a quarter of the window, a lane that has nothing pending at once."""
        if not self._link.up.is_set():
            return
        client, now = self._link.client, monotonic()
        self._expire(now)
        held = len(self._buffer) + len(self._out)
        window = min(self._window, self._held_max)
        room = min(self._window - held, self._held_max - held + len(self._waiting))
        for lane in self._lanes:
            if lane.asked > 0 and now - lane.heard > _SILENT_S:
                await lane.attach(client)
            # Each lane may fill the window alone: an idle one must not hold half of it.
            missing = room - lane.asked
            if missing >= max(1, window // 4) or (lane.asked == 0 and missing > 0):
                await lane.ask(client, missing, self._rank, self._linger_s)
        self._lacks_room = any(lane.asked == 0 for lane in self._lanes)

    def _expire(self, now: float) -> None:
        while self._out and now - self._out[oldest := next(iter(self._out))] >= self._ack_wait:
            self._forget(oldest)

    def settle(self, token: str) -> None:
        self._forget(token)
        if self._lacks_room:  # whoever waits for messages has to ask for some first
            self.wake()

    def _forget(self, token: str) -> None:
        self._out.pop(token, None)
        self._waiting.discard(token)

    async def withdraw(self, client: Any) -> list[str]:
        """Ask for nothing any more. Returns the acknowledgement subjects of all that was sent, and not handed out, until then."""
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            await lane.let_end(client)
        await client.flush(_LEAVE_S)
        tokens = [delivery.token for delivery, _ in self._buffer]
        self._buffer.clear()
        return tokens

    def take_back(self) -> list[str]:
        """Acknowledgement subjects of all that is unsettled, buffered or handed out; afterwards nothing is held."""
        tokens = [delivery.token for delivery, _ in self._buffer] + list(self._out)
        self._buffer.clear()
        self._out.clear()
        self._waiting.clear()
        return tokens
