"""`KafkaBroker`: the broker port over Apache Kafka.

The parts: `clients` holds what is to know about aiokafka, `topology` declares, `receive` is the member of the service's group,
`publish` confirms, `notices` watches the definitions. This class wires them and repairs: a topic that is missing under way is made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

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
from saga_choreo_kafka import planning
from saga_choreo_kafka import topology as channels
from saga_choreo_kafka.bare import KafkaError
from saga_choreo_kafka.clients import Pace, make_admin, probe
from saga_choreo_kafka.names import Names
from saga_choreo_kafka.notices import watch
from saga_choreo_kafka.options import Options, parse_url
from saga_choreo_kafka.publish import Publisher
from saga_choreo_kafka.receive import Receiver

__all__ = ["KafkaBroker"]

_log = logging.getLogger("saga_choreo.kafka")
_T = TypeVar("_T")

# Between two repairs, and after one that failed: each takes two connections, and less than one a second is what we may ask for.
_REPAIR_PAUSE_S, _REPAIR_AGAIN_S = 1.5, 4.0
_RETRY_S = 0.8
_PROBE_S = 2.0
# A rebalance may take as long as its slowest member; the agent need not wait for it, nothing is missed meanwhile.
_JOIN_S = 4.0


class KafkaBroker:
    """At-least-once over Kafka. URL: `kafka://[user:pass@]host:port[,...][?partitions=12&...]` (see `Options`)."""

    def __init__(self, url: str, *, prefix: str = "saga") -> None:
        self._options: Options = parse_url(url)
        self._names = Names(prefix)
        self._topology: Topology | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted: list[str] = []
        # Made when it is opened, in the loop they live in.
        self._pace: Pace | None = None
        self._publisher: Publisher | None = None
        self._receiver: Receiver | None = None
        self._damaged = asyncio.Event()

    @property
    def features(self) -> BrokerFeatures:
        return BrokerFeatures(name="kafka", balances_backlog=False, refuses_when_full=False, keeps_read=True, single_copy=True)

    @property
    def connection(self) -> Connection:
        """Of all clients that this object is made of."""
        pace, publisher = self._pace, self._publisher
        if pace is None or publisher is None:
            return Connection(is_up=False)
        return Connection(pace.is_well and publisher.up.is_set(), pace.losses)

    async def open(self, topology: Topology) -> None:
        """Raises BrokerUnavailable within `open_timeout` (8 s), ConfigurationError for missing topics or refused credentials. The
        group may still be joining when it returns; nothing published to a bound topic is missed."""
        if self._topology is not None:
            raise ConfigurationError("this Kafka broker is open already; make one object per agent")
        self._topology = topology
        try:
            await self._open(topology)
        except BaseException:
            await self.close()
            raise

    async def _open(self, topology: Topology) -> None:
        self._wanted = channels.wanted_topics(self._names, topology)
        limits = await self._reach(lambda: self._declare(topology, self._wanted))
        self._pace = Pace()
        self._damaged.clear()
        self._publisher = Publisher(self._options, self._names, self._pace, self._make_topic, self._look)
        self._publisher.limits, self._publisher.topics = limits, tuple(self._wanted)
        self._tasks = [asyncio.create_task(self._publisher.run(), name="saga-kafka-publisher")]
        self._tasks.append(asyncio.create_task(self._repair(topology), name="saga-kafka-repair"))
        waits = [self._publisher.up.wait()]
        if topology.receives:
            self._receiver = Receiver(self._options, self._names, self._pace, self._look)
            self._receiver.topics = channels.bindings(self._names, topology)
            self._receiver.group = self._names.group(topology.service)
            self._tasks.append(asyncio.create_task(self._receiver.run(), name="saga-kafka-receiver"))
            waits.append(self._receiver.joined.wait())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_JOIN_S):
                await asyncio.gather(*waits)

    def plan(self, topologies: Sequence[Topology]) -> Sequence[Planned]:
        return planning.plan(self._names, self._options, topologies)

    async def survey(self, topologies: Sequence[Topology]) -> Sequence[Difference]:
        look = partial(planning.survey, names=self._names, options=self._options, topologies=topologies)
        return await self._reach(lambda: self._ask(look))

    async def apply(self, topologies: Sequence[Topology]) -> None:
        act = partial(planning.apply, names=self._names, options=self._options, topologies=topologies)
        await self._reach(lambda: self._ask(act))

    async def _reach(self, act: Callable[[], Awaitable[_T]]) -> _T:
        """Reach the server and do that, within `open_timeout`."""
        reason: Exception | None = None
        deadline = asyncio.get_running_loop().time() + self._options.open_timeout
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await probe(self._options, _PROBE_S)
                    return await act()
            except (BrokerUnavailable, TimeoutError) as exc:
                if reason is None:
                    _log.warning("Kafka at %s cannot be used yet (%s); trying again", self._options.shown, exc)
                reason = exc if str(exc) else reason
            if asyncio.get_running_loop().time() + _RETRY_S >= deadline:
                raise BrokerUnavailable(
                    f"{reason or f'Kafka at {self._options.shown!r} does not answer; start it or correct the broker URL'}"
                ) from reason
            await asyncio.sleep(_RETRY_S)

    async def _declare(self, topology: Topology, topics: Sequence[str]) -> dict[str, int]:
        async def act(admin: Any) -> dict[str, int]:
            if topology.create:
                limits = await channels.declare(admin, self._names, self._options, topics)
                await channels.settled(admin, topics)
                return limits
            return await channels.check(admin, self._names, self._options, topics, topology.service)

        return await self._ask(act)

    async def _ask(self, act: Callable[[Any], Awaitable[_T]]) -> _T:
        admin = make_admin(self._options, f"saga-choreo {self._names.prefix}", self._pace)
        try:
            await admin.start()
            return await act(admin)
        except (KafkaError, OSError) as exc:
            raise BrokerUnavailable(f"Kafka at {self._options.shown!r} does not answer as it should ({exc!r}); try again") from exc
        finally:
            with contextlib.suppress(KafkaError, OSError):
                await admin.close()

    async def _make_topic(self, topic: str) -> bool:
        assert self._topology is not None
        if not self._topology.create:
            return False
        async with asyncio.timeout(self._options.publish_timeout):
            limits = await self._declare(self._topology, [topic])
        if self._publisher is not None:
            self._publisher.limits |= limits
        return True

    def _look(self, cluster: Any) -> None:
        """At what the server has just said of its topics."""
        if any(cluster.partitions_for_topic(topic) is None for topic in self._bound):
            self._damaged.set()

    @property
    def _bound(self) -> list[str]:
        return self._receiver.topics if self._receiver is not None else []

    async def _repair(self, topology: Topology) -> None:
        """Make again what somebody deleted. Without leave to create, only say so, once."""
        said = ""
        while True:
            await self._damaged.wait()
            self._damaged.clear()
            pause_s = _REPAIR_PAUSE_S
            try:
                before = await self._declare(topology, self._wanted)
                if self._publisher is not None:
                    self._publisher.limits |= before
                said = ""
            except Exception as exc:  # noqa: BLE001  (whatever it is, giving up for ever would be worse)
                if str(exc) != said:
                    said = str(exc)
                    _log.error("a topic of service %r is missing: %s", topology.service, exc)
                self._damaged.set()
                pause_s = _REPAIR_AGAIN_S
            await asyncio.sleep(pause_s)

    async def receive(self, max_messages: int, max_wait_s: float) -> Sequence[Delivery]:
        """Waits through an outage; never raises for one."""
        self._must_be_open()
        if self._receiver is None:
            await asyncio.Event().wait()
        assert self._receiver is not None
        return await self._receiver.receive(max_messages, max_wait_s)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remembered here, and told to the server with the next commit."""
        self._must_be_open()
        if self._receiver is not None:
            self._receiver.ack(deliveries)

    async def release(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        self._must_be_open()
        if self._receiver is not None:
            self._receiver.release(deliveries, delay_s)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        """What is in flight when the connection breaks is repeated, and stored once; what is not confirmed in time is unknown."""
        return await self._must_be_open().publish(messages)

    async def notify(self, notice: Notice) -> None:
        outgoing = Outgoing(channel=Channel(ChannelKind.DEFS, notice.subject), key="", headers={}, body=notice.body)
        (error,) = await self._must_be_open().publish([outgoing])
        if error is not None:
            raise error

    def notices(self) -> AsyncIterator[Notice]:
        self._must_be_open()
        assert self._pace is not None
        return watch(self._options, self._names, self._pace)

    def _must_be_open(self) -> Publisher:
        if self._topology is None or self._publisher is None:
            raise ConfigurationError("this Kafka broker is not open; call open() first")
        return self._publisher

    async def close(self) -> None:
        """What is unacknowledged is handed back at once: the member leaves its group. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._pace is not None:
            self._pace.close()
        self._publisher = self._receiver = self._pace = self._topology = None
