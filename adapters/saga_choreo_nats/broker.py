"""`NatsBroker`: the broker port over NATS JetStream.

The parts: `link` keeps one connection up, `topology` declares, `receive` pulls, `publish` confirms, `notices` watches the
definitions, `trimming` removes what all have read. This class wires them and repairs: a stream or durable that is missing under
way is declared again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from nats import errors as nats_errors

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo.ports import (
    BrokerFeatures,
    Channel,
    ChannelKind,
    Connection,
    Delivery,
    Difference,
    Notice,
    Outgoing,
    Planned,
    Topology,
)
from saga_choreo_nats import planning
from saga_choreo_nats import topology as channels
from saga_choreo_nats.ending import end
from saga_choreo_nats.link import Link
from saga_choreo_nats.names import Names
from saga_choreo_nats.notices import watch
from saga_choreo_nats.options import parse_url
from saga_choreo_nats.publish import Publisher
from saga_choreo_nats.receive import Receiver
from saga_choreo_nats.trimming import Trimmer

__all__ = ["NatsBroker"]

_log = logging.getLogger("saga_choreo.nats")

# Between two repairs, so that a stream that cannot be declared does not become a busy loop.
_REPAIR_PAUSE_S = 1.5
_LOOK_AGAIN_S = 30.0
_NAK = b"-NAK"


class NatsBroker:
    """At-least-once over JetStream. URL: `nats://[user:pass@]host:port[,...][?ack_wait=4&...]` (see `Options`)."""

    def __init__(self, url: str, *, prefix: str = "saga") -> None:
        self._options = parse_url(url)
        self._names = Names(prefix)
        self._link = Link(self._options, f"saga-choreo {prefix}", self._prepare, self._lost)
        self._publisher = Publisher(self._link, self._names, self._options)
        self._receiver = Receiver(self._link, self._names, self._options)
        self._topology: Topology | None = None
        streams = (self._names.events, self._names.control)
        self._trimmer = Trimmer(self._link, streams, self._options.publish_timeout, self._publisher.full)
        self._upkeep: tuple[asyncio.Task[None], ...] = ()

    @property
    def features(self) -> BrokerFeatures:
        return BrokerFeatures(name="nats", single_copy=True, withdraws=True)

    @property
    def connection(self) -> Connection:
        return Connection(self._link.up.is_set(), self._link.losses)

    async def open(self, topology: Topology) -> None:
        """Raises BrokerUnavailable within `open_timeout` (8 s), ConfigurationError for missing channels or refused credentials."""
        if self._topology is not None:
            raise ConfigurationError("this NATS broker is open already; make one object per agent")
        bound = channels.bindings(self._names, topology)
        self._receiver.bind(dict.fromkeys(bound, self._names.durable(topology.service)))
        self._topology = topology
        try:
            await self._link.open()
        except BaseException:
            self._topology = None
            raise
        self._upkeep = (
            asyncio.create_task(self._repair(topology), name="saga-nats-repair"),
            asyncio.create_task(self._trimmer.run(), name="saga-nats-trim"),
        )

    def plan(self, topologies: Sequence[Topology]) -> Sequence[Planned]:
        return planning.plan(self._names, self._options, topologies)

    async def survey(self, topologies: Sequence[Topology]) -> Sequence[Difference]:
        async with self._visit() as client:
            return await planning.survey(self._jetstream(client), self._names, self._options, topologies)

    async def apply(self, topologies: Sequence[Topology]) -> None:
        async with self._visit() as client:
            for topology in topologies:
                ranked = channels.knows_ranks(client)
                await channels.declare(self._jetstream(client), self._names, self._options, topology, ranked=ranked)

    @asynccontextmanager
    async def _visit(self) -> AsyncGenerator[Any]:
        """A connection for a moment, that binds nothing."""

        async def nothing(_client: Any) -> None:
            return

        link = Link(self._options, f"saga-choreo {self._names.prefix}", nothing, lambda _reason: None)
        await link.open()
        try:
            yield link.client
        except (nats_errors.Error, TimeoutError, OSError) as exc:
            raise BrokerUnavailable(
                f"JetStream at {self._options.shown!r} does not answer as it should ({exc}); try again"
            ) from exc
        finally:
            await link.close()

    def _jetstream(self, client: Any) -> Any:
        return client.jetstream(timeout=self._options.publish_timeout)

    async def _prepare(self, client: Any) -> None:
        """On every fresh client: the channels first, so that the first pull finds its durable."""
        assert self._topology is not None
        await self._declare(client, self._topology)
        await self._publisher.attach(client)
        await self._receiver.attach(client)

    async def _declare(self, client: Any, topology: Topology) -> None:
        js = self._jetstream(client)
        try:
            if topology.create:
                await channels.declare(js, self._names, self._options, topology, ranked=channels.knows_ranks(client))
            else:
                await channels.check(js, self._names, self._options, topology)
        except (nats_errors.Error, TimeoutError, OSError) as exc:
            raise BrokerUnavailable(
                f"JetStream at {self._options.shown!r} does not answer as it should ({exc}); is it enabled, and has it room?"
            ) from exc

    def _lost(self, reason: str) -> None:
        self._publisher.fail(reason)
        self._receiver.wake()

    async def _repair(self, topology: Topology) -> None:
        """Declare again what somebody deleted, and now and then what somebody may have narrowed. Without leave to create, only
        say so, once."""
        said = ""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._link.damaged.wait()
            was_damaged = self._link.damaged.is_set()
            self._link.damaged.clear()
            if self._link.up.is_set():
                client = self._link.client
                try:
                    await self._declare(client, topology)
                    if was_damaged:
                        await self._receiver.attach(client)
                        _log.warning("a stream or durable of service %r was missing; declared again", topology.service)
                    said = ""
                except Exception as exc:  # noqa: BLE001  (whatever it is, giving up for ever would be worse)
                    if str(exc) != said:
                        said = str(exc)
                        _log.error("a stream or durable of service %r is missing: %s", topology.service, exc)
                    self._link.damaged.set()
            await asyncio.sleep(_REPAIR_PAUSE_S)

    async def receive(self, max_messages: int, max_wait_s: float) -> Sequence[Delivery]:
        """Waits through an outage; never raises for one."""
        self._must_be_open()
        return await self._receiver.receive(max_messages, max_wait_s)

    def prefer(self, rank: int, held_max: int | None = None) -> bool:
        return self._receiver.prefer(rank, held_max)

    async def withdraw(self) -> None:
        """Best effort: what it cannot hand back, the server delivers again when its time to acknowledge is over."""
        if self._link.up.is_set():
            client = self._link.client
            with contextlib.suppress(nats_errors.Error, OSError):
                await client.publish_to_all(await self._receiver.withdraw(client), _NAK)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(deliveries, b"")

    async def release(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        await self._settle(deliveries, _NAK + b' {"delay":%d}' % int(delay_s * 1e9) if delay_s > 0 else _NAK)

    async def _settle(self, deliveries: Sequence[Delivery], body: bytes) -> None:
        client = self._link.need()
        tokens = [delivery.token for delivery in deliveries]
        for token in tokens:
            self._receiver.settle(token)
        with contextlib.suppress(nats_errors.ConnectionClosedError):
            await client.publish_to_all(tokens, body)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        """What is in flight when the connection breaks is answered with BrokerUnavailable; nothing is ever sent twice by itself."""
        self._must_be_open()
        return await self._publisher.publish(messages)

    async def notify(self, notice: Notice) -> None:
        self._must_be_open()
        outgoing = Outgoing(channel=Channel(ChannelKind.DEFS, notice.subject), key="", headers={}, body=notice.body)
        (error,) = await self._publisher.publish([outgoing])
        if error is not None:
            raise error

    def notices(self) -> AsyncIterator[Notice]:
        self._must_be_open()
        return watch(self._link, self._names)

    def _must_be_open(self) -> None:
        if self._topology is None:
            raise ConfigurationError("this NATS broker is not open; call open() first")

    async def close(self) -> None:
        """What is unacknowledged is handed back at once. Idempotent."""
        upkeep, self._upkeep = self._upkeep, ()
        for task in upkeep:
            await end(task)
        tokens = self._receiver.take_back()
        if self._link.up.is_set():
            with contextlib.suppress(nats_errors.Error, OSError):
                for token in tokens:
                    await self._link.client.publish(token, _NAK)
        await self._link.close()
        self._publisher.fail("closed")
        self._topology = None
