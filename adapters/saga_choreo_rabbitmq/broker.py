"""`RabbitMqBroker`: the broker port over RabbitMQ.

The parts: two `link`s keep a consuming and a publishing connection up, `topology` declares, `receive` consumes, `publish` confirms,
`later` delays, `notices` watches the definitions. This class wires them, and looks now and then at what nobody reports: bindings that
somebody removed, and messages that the server itself has put aside.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo.ports import BrokerFeatures, Connection, Delivery, Difference, Notice, Outgoing, Planned, Topology
from saga_choreo_rabbitmq import planning
from saga_choreo_rabbitmq import topology as channels
from saga_choreo_rabbitmq.errors import Closed, WireError
from saga_choreo_rabbitmq.later import Later
from saga_choreo_rabbitmq.link import Link
from saga_choreo_rabbitmq.names import Names
from saga_choreo_rabbitmq.notices import Watch, notice_letter
from saga_choreo_rabbitmq.options import parse_url
from saga_choreo_rabbitmq.publish import Publisher, Unroutable
from saga_choreo_rabbitmq.receive import Receiver
from saga_choreo_rabbitmq.wire import Wire

__all__ = ["RabbitMqBroker"]

_log = logging.getLogger("saga_choreo.rabbitmq")
_LIMIT_FOR_DEATHS_MIN = 20


class RabbitMqBroker:
    """At-least-once over quorum queues. URL: `amqp://user:password@host:port[,...][/vhost][?prefetch=300&...]` (see `Options`)."""

    def __init__(self, url: str, *, prefix: str = "saga") -> None:
        self._options = parse_url(url)
        self._names = Names(prefix)
        self._name = name = f"saga-choreo {prefix}"
        self._consuming = Link(self._options, "consuming", name, self._prepare_consuming, self._lost_consuming)
        self._publishing = Link(self._options, "publishing", name, self._prepare_publishing, self._lost_publishing, self._consuming)
        self._publisher = Publisher(self._publishing, self._names, self._options)
        self._receiver = Receiver(self._consuming, self._names, self._options)
        self._later = Later(self._consuming, self._publisher, self._names, self._options)
        self._topology: Topology | None = None
        self._looks: asyncio.Task[None] | None = None
        self._aside = 0

    @property
    def features(self) -> BrokerFeatures:
        return BrokerFeatures(name="rabbitmq", reports_unread=True, bounds_deliveries=True, withdraws=True)

    @property
    def connection(self) -> Connection:
        """Both connections; they are often lost together, and then counted once."""
        links = (self._consuming, self._publishing)
        return Connection(all(link.up.is_set() for link in links), max(link.losses for link in links))

    async def open(self, topology: Topology) -> None:
        """Raises BrokerUnavailable within `open_timeout` (8 s), ConfigurationError for missing queues or refused credentials."""
        if self._topology is not None:
            raise ConfigurationError("this RabbitMQ broker is open already; make one object per agent")
        if topology.receives:
            self._receiver.bind(topology.service)
        self._topology = topology
        deadline = asyncio.get_running_loop().time() + self._options.open_timeout
        try:
            await self._consuming.open(deadline)
            await self._publishing.open(deadline)
        except BaseException:
            await self.close()
            raise
        self._looks = asyncio.create_task(self._look_for_ever(topology), name="saga-rabbitmq-look")

    def plan(self, topologies: Sequence[Topology]) -> Sequence[Planned]:
        return planning.plan(self._names, self._options, topologies)

    async def survey(self, topologies: Sequence[Topology]) -> Sequence[Difference]:
        async with self._visit() as wire:
            return await planning.survey(wire, self._names, self._options, topologies)

    async def apply(self, topologies: Sequence[Topology]) -> None:
        """Makes the queues for delays too, which agents make when they first need them: theirs may be an account that may not."""
        async with self._visit() as wire:
            await planning.apply(wire, self._names, self._options, topologies)

    @asynccontextmanager
    async def _visit(self) -> AsyncGenerator[Wire]:
        """A connection for a moment, that declares nothing by itself."""

        async def nothing(_wire: Wire) -> None:
            return

        link = Link(self._options, "planning", self._name, nothing, lambda _reason: None)
        await link.open(asyncio.get_running_loop().time() + self._options.open_timeout)
        try:
            yield link.need()
        except Closed as exc:
            raise link.refusal(exc) from exc
        except WireError as exc:
            raise BrokerUnavailable(f"RabbitMQ at {self._options.shown!r} does not answer as it should ({exc}); try again") from exc
        finally:
            await link.close()

    async def _prepare_consuming(self, wire: Wire) -> None:
        """On every fresh connection: the channels first, so that the consumer finds its queue."""
        await self._declare(wire)
        await self._receiver.attach(wire)

    async def _prepare_publishing(self, wire: Wire) -> None:
        await self._declare(wire)
        try:
            await self._declare_defs(wire)
        except Closed as exc:
            _log.error("the stream %r of definitions is missing, and is tried again: %s", self._names.defs, exc)
        await self._publisher.attach(wire)

    async def _declare_defs(self, wire: Wire) -> None:
        if self._may_declare:
            await channels.declare_defs(wire, self._names, self._options)

    async def _declare(self, wire: Wire) -> None:
        assert self._topology is not None
        act = channels.declare if self._may_declare else channels.check
        await act(wire, self._names, self._options, self._topology)

    @property
    def _may_declare(self) -> bool:
        return self._topology is not None and self._topology.create and self._options.declare

    def _lost_consuming(self, _reason: str) -> None:
        self._receiver.lost()

    def _lost_publishing(self, reason: str) -> None:
        self._publisher.fail(reason)

    async def _look_for_ever(self, topology: Topology) -> None:
        while True:
            await asyncio.sleep(self._options.watch_every)
            wire = self._consuming.wire
            if wire is None or not self._consuming.up.is_set():
                continue
            try:
                if self._may_declare:
                    await channels.assert_bindings(wire, self._names, topology)
                self._report(await channels.undeliverable_count(wire, self._names))
            except WireError as exc:
                wire.lose(exc)  # something is missing: a fresh connection declares it

    def _report(self, aside: int) -> None:
        """Once for each time that there are more."""
        if aside > self._aside:
            _log.error(
                "RabbitMQ has put %d messages aside in queue %r: delivered %d times without an end, or older than the horizon;"
                " see what is wrong with them (header x-death), and move them back to their queue or purge them",
                aside, self._names.undeliverable, self._options.delivery_limit,
            )  # fmt: skip
        self._aside = aside

    async def receive(self, max_messages: int, max_wait_s: float) -> Sequence[Delivery]:
        """Waits through an outage; never raises for one."""
        self._must_be_open()
        return await self._receiver.receive(max_messages, max_wait_s)

    async def withdraw(self) -> None:
        self._receiver.withdraw()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """What came over a connection that is gone is the server's again: there is nothing to say about it."""
        self._must_be_open()
        self._receiver.ack(deliveries)

    async def release(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        """What cannot be sent on for later now comes again when `ack_wait` is over.

        A message that is near the server's own limit of deliveries is sent on as well, since that limit is for agents that die. A limit
        below twenty is taken to be meant, and counts what is handed back too.
        """
        self._must_be_open()
        limit = self._options.delivery_limit
        near = limit // 2 if limit >= _LIMIT_FOR_DEATHS_MIN else 2 * _LIMIT_FOR_DEATHS_MIN
        later = [one for one in self._receiver.ours(deliveries) if delay_s > 0 or one.token.in_queue >= near]
        again = [one for one in deliveries if one not in later] if delay_s <= 0 else []
        self._receiver.hand_back(again)
        if later and self._topology is not None:
            try:
                self._receiver.ack(await self._later.send_on(self._topology.service, later, delay_s))
            except WireError as exc:
                raise BrokerUnavailable(f"RabbitMQ could not take {len(later)} messages back ({exc}); they come again") from exc

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        """What is in flight when the connection breaks is answered with BrokerUnavailable; nothing is ever sent twice by itself."""
        self._must_be_open()
        return await self._publisher.publish(messages)

    async def notify(self, notice: Notice) -> None:
        self._must_be_open()
        (error,) = await self._publisher.send([notice_letter(self._names, notice)])
        if isinstance(error, Unroutable):
            raise BrokerUnavailable(
                f"the stream {self._names.defs!r} of definitions is not there (a server that was killed has it back a little later)"
            ) from error
        if error is not None:
            raise error

    def notices(self) -> AsyncIterator[Notice]:
        self._must_be_open()
        return Watch(self._consuming, self._publisher, self._names, self._declare_defs).run()

    def _must_be_open(self) -> None:
        if self._topology is None:
            raise ConfigurationError("this RabbitMQ broker is not open; call open() first")

    async def close(self) -> None:
        """What is unacknowledged is the server's again at once. Idempotent."""
        looks, self._looks = self._looks, None
        if looks is not None:
            looks.cancel()
            await asyncio.gather(looks, return_exceptions=True)
        self._receiver.close()
        await asyncio.gather(self._consuming.close(), self._publishing.close())
        self._publisher.fail("closed")
        self._topology = None
