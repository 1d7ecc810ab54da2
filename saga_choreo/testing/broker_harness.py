"""What the author of an adapter writes to run the conformance suite: how to make a broker, and how to break the server behind it.

A way to break something is a tool. What a server, or the place the tests run in, does not allow is a tool left out: every
behaviour that needs it is then skipped by the tool's name. What the adapter itself cannot do is a flag of `BrokerFeatures`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from typing import Literal, Protocol

from saga_choreo.ports import Broker, BrokerFeatures
from saga_choreo.testing.proxy import FaultProxy

__all__ = ["BrokerHarness", "BrokerTools", "Certificate", "GuardedServer", "ServerControl"]

Certificate = Literal["good", "expired", "other host", "unknown issuer"]


class ServerControl(Protocol):
    """The server behind a real broker, on a loopback port that stays the same over restarts.

    `start` does nothing where it runs already, and returns when it takes connections; `stop` asks it to end; `kill` is kill -9;
    `pause` is SIGSTOP and `resume` undoes it. May be shared by many behaviours: each leaves it running.
    """

    @property
    def port(self) -> int: ...
    def start(self) -> object: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class GuardedServer(Protocol):
    """A server, or a listener of one, that talks TLS only and asks for a password."""

    def broker(self, which: Literal["first", "second"] = "first") -> Broker:
        """A broker that is not open yet and trusts the issuer of the good certificate. It brings the first or
        the second password, `first-s3cret` or `second-s3cret`; the first is right at the start."""
        ...

    async def accept(self, which: Literal["first", "second"]) -> None:
        """Only that password is right from now on, and sessions that came with the other one end."""
        ...

    async def present(self, certificate: Certificate) -> None:
        """The server shows this certificate to whoever connects from now on."""
        ...

    async def put_out(self) -> None:
        """Nobody that came before stays connected."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTools:
    """`server`: stop, kill and pause it. `proxy`: a `FaultProxy`, not entered yet, through which `broker(port=proxy.port)` reaches
    the server (a server that tells clients its address has to name the proxy's port).

    `drop_bindings` deletes the queues, durables or groups of this harness's prefix behind the adapter's back, `drop_channels` the
    streams, exchanges or topics; `purge` deletes all messages and leaves the rest as it is.
    `cramped` makes a broker whose event channel holds at most about 100 kB; while `blocked` is entered, the server takes no
    publish (an alarm, too few replicas). `rewind` resets the service `payment` to the start or the end of what is kept, as an
    operator does while its agents are away; `expire` forgets how far it had read. `guarded` is a server with TLS and a password.
    `disconnect` makes the server end all connections. `impatient` makes a broker whose server gives a message up after about
    five deliveries; `put_aside` says the bodies of what it gave up.
    """

    server: ServerControl | None = None
    proxy: Callable[[], FaultProxy] | None = None
    drop_bindings: Callable[[], Awaitable[None]] | None = None
    drop_channels: Callable[[], Awaitable[None]] | None = None
    purge: Callable[[], Awaitable[None]] | None = None
    cramped: Callable[[], Broker] | None = None
    blocked: Callable[[], AbstractAsyncContextManager[object]] | None = None
    rewind: Callable[[Literal["start", "end"]], Awaitable[None]] | None = None
    expire: Callable[[], Awaitable[None]] | None = None
    guarded: Callable[[], AbstractAsyncContextManager[GuardedServer]] | None = None
    disconnect: Callable[[], Awaitable[None]] | None = None
    impatient: Callable[[], Broker] | None = None
    put_aside: Callable[[], Awaitable[list[bytes]]] | None = None

    @classmethod
    def names(cls) -> frozenset[str]:
        return frozenset(field.name for field in fields(cls))


class BrokerHarness(Protocol):
    """Made anew for each behaviour, with a prefix that nobody else uses. The server may be shared: a harness makes sure that it runs.

    `ack_wait_s` is how long the brokers it makes wait for an acknowledgement (short, so that tests are quick), where
    `features.expires_deliveries`. A publish and an opening are to give up within 4 s or so.
    """

    @property
    def features(self) -> BrokerFeatures: ...
    @property
    def ack_wait_s(self) -> float: ...
    @property
    def tools(self) -> BrokerTools: ...
    def broker(self, port: int | None = None, *, prefix: str = "") -> Broker:
        """A broker that is not open yet; through this port (a proxy's) if one is given. A prefix is one more part of the
        harness's own, for tests of two prefixes on one server."""
        ...
