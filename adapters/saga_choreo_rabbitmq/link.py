"""One connection that is kept up: connects, and replaces a dead one with a fresh one, at less than one attempt a second.

A publishing connection and a consuming one are two links: when an alarm stops publishers, the server reads nothing more from their
connection, and acknowledgements must still get through. Whatever goes wrong on a channel (its queue or exchange was deleted, a
request was refused) ends its connection as well: preparing a fresh one declares everything again, so there is one way back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from itertools import cycle

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo_rabbitmq.errors import Closed, WireError
from saga_choreo_rabbitmq.options import Options
from saga_choreo_rabbitmq.wire import Wire

__all__ = ["Link"]

_log = logging.getLogger("saga_choreo.rabbitmq")

# The first attempt comes soon (a server that merely restarted), the later ones at 1.6 s on average: below one a second.
_FIRST_RETRY_S = 0.3
_RETRY_S = 1.6
# A connection that ends sooner than this was of no use, and is no reason to come back soon.
_USEFUL_S = 5.0
_ACCESS_REFUSED, _NOT_ALLOWED = 403, 530


class Link:
    """`on_up` prepares a fresh connection, `on_down` answers what was in flight. Both are ours. A link that comes `after` another
    one leaves it to that one to find out when the server is back."""

    def __init__(
        self,
        options: Options,
        purpose: str,
        name: str,
        on_up: Callable[[Wire], Awaitable[None]],
        on_down: Callable[[str], None],
        after: Link | None = None,
    ) -> None:
        self._options = options
        self._purpose = purpose
        self._name = name
        self._on_up = on_up
        self._on_down = on_down
        self._after = after
        self._servers = cycle(random.sample(options.servers, len(options.servers)))
        self._lost: asyncio.Future[WireError] | None = None
        self._task: asyncio.Task[None] | None = None
        self.wire: Wire | None = None
        self.up = asyncio.Event()
        self.losses = 0

    def need(self) -> Wire:
        """The connection, or BrokerUnavailable while it is down."""
        if self.wire is None or not self.up.is_set():
            raise self.down()
        return self.wire

    def down(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"RabbitMQ at {self._options.shown!r} is not connected; it is being reconnected, try again")

    async def open(self, deadline: float) -> None:
        """Connect for the first time, until the deadline; then keep the connection up until `close`."""
        reason, has_said = "no answer", False
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._connect()
                break
            except ConfigurationError:
                raise
            except (OSError, TimeoutError, WireError, BrokerUnavailable) as exc:
                reason = str(exc) or reason
            if not has_said:
                has_said = True
                _log.warning("RabbitMQ at %s cannot be reached yet (%s); trying again", self._options.shown, reason)
            delay = _RETRY_S * (0.5 + random.random())  # noqa: S311  (jitter, not a secret)
            if asyncio.get_running_loop().time() + delay >= deadline:
                raise BrokerUnavailable(
                    f"RabbitMQ at {self._options.shown!r} cannot be reached ({reason}); start it or correct the broker URL"
                )
            await asyncio.sleep(delay)
        self._task = asyncio.create_task(self._keep_up(), name=f"saga-rabbitmq-{self._purpose}")

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.up.clear()
        wire, self.wire = self.wire, None
        if wire is not None:
            await wire.close()

    async def _connect(self) -> None:
        """One attempt at one server; leaves a connection that is up and prepared, or nothing."""
        options = self._options
        host, port = next(self._servers)
        lost: asyncio.Future[WireError] = asyncio.get_running_loop().create_future()
        external = options.auth == "external"
        wire: Wire | None = None
        try:
            async with asyncio.timeout(options.connect_timeout):
                wire = await Wire.connect(
                    host,
                    port,
                    tls=options.tls_context(),
                    mechanism="EXTERNAL" if external else "PLAIN",
                    response="" if external else f"\0{options.user}\0{options.secret()}",
                    vhost=options.vhost,
                    heartbeat_s=options.heartbeat,
                    name=f"{self._name} {self._purpose}",
                    answer_timeout_s=options.answer_timeout,
                    on_lost=lambda error: None if lost.done() else lost.set_result(error),
                )
            self._lost, self.wire = lost, wire
            await self._on_up(wire)
            if wire.error is not None:
                raise wire.error
            self.up.set()
        except BaseException as exc:
            self.wire = None
            if wire is not None:
                wire.abort()
            if isinstance(exc, Closed):
                raise self.refusal(exc) from exc
            raise

    def refusal(self, error: Closed) -> BrokerUnavailable | ConfigurationError:
        """What trying again does not mend is a matter of configuration."""
        where = repr(self._options.shown)
        if error.code == _ACCESS_REFUSED and "Login was refused" in error.text:
            return ConfigurationError(f"RabbitMQ at {where} refused the credentials; correct user or password in the broker URL")
        if error.code == _NOT_ALLOWED and "not found" in error.text:
            return ConfigurationError(
                f"RabbitMQ at {where} has no virtual host {self._options.vhost!r}; create it, or correct the end of the broker URL"
            )
        if error.code in (_ACCESS_REFUSED, _NOT_ALLOWED):
            return ConfigurationError(f"RabbitMQ at {where} does not permit this: {error.text}; give the account the permission")
        return BrokerUnavailable(f"RabbitMQ at {where} does not answer as it should ({error}); try again")

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            assert self._lost is not None
            since = loop.time()
            reason = str(await self._lost)
            self.up.clear()
            self.losses += 1
            self.wire = None
            _log.warning("%s connection to RabbitMQ at %s lost (%s); reconnecting", self._purpose, self._options.shown, reason)
            self._on_down(reason)
            await self._reconnect(_FIRST_RETRY_S if loop.time() - since >= _USEFUL_S else _RETRY_S)
            _log.warning("%s connection to RabbitMQ at %s is back", self._purpose, self._options.shown)

    async def _reconnect(self, delay: float) -> None:
        said = ""
        while True:
            await asyncio.sleep(delay * (0.5 + random.random()))  # noqa: S311  (jitter, not a secret)
            delay = _RETRY_S
            if self._after is not None:
                await self._after.up.wait()
            try:
                await self._connect()
                return
            except (OSError, TimeoutError, WireError, BrokerUnavailable) as exc:
                _log.debug("%s connection to RabbitMQ is not back yet: %r", self._purpose, exc)  # the outage was told when it began
            except Exception as exc:  # noqa: BLE001  (whatever it is, giving up for ever would be worse)
                if str(exc) != said:
                    said = str(exc)
                    _log.error("cannot reconnect to RabbitMQ at %s: %s", self._options.shown, exc)
