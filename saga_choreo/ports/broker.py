"""The broker port: at-least-once delivery of bytes and headers. An adapter never sees a payload as anything but bytes.

Channels are logical (`Channel`); each adapter maps them to topics, queues or subjects by the scheme it documents.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from saga_choreo.model.envelope import Channel

__all__ = [
    "RANK_LAST",
    "Broker",
    "BrokerFeatures",
    "Connection",
    "Delivery",
    "Notice",
    "Outgoing",
    "Prefers",
    "TellsOfConnection",
    "Topology",
    "Withdraws",
]

# Of an agent, see `Prefers`.
RANK_LAST = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFeatures:
    """What this broker can do; a conformance test that needs a missing feature is skipped by name.

    `counts_deliveries`: `Delivery.attempt` is the real number of deliveries, not only a repeated flag.
    `delays_release`: a delivery handed back can come again after a delay.
    `expires_deliveries`: what is not acknowledged in time comes again although its agent still lives; elsewhere it comes
    again once the agent has closed or is gone.
    `balances_backlog`: what waits goes to whichever agent of the service is free; elsewhere each agent has a part of it until
    it leaves.
    `refuses_when_full`: a channel can be bounded, and then refuses what is new.
    `reports_unread`: a publish that `must_route` and finds no service bound is refused.
    `bounds_deliveries`: the server itself puts a message aside after many deliveries, as a net beneath our own limits.
    `keeps_read`: what was acknowledged stays for the horizon, and a service can be set back to it.
    `single_copy`: what one service has read is there for every other reader too; elsewhere each has a copy of its own, and one may be
    missing as long as the publisher has no confirmation.
    `withdraws`: an agent can leave what waits to the others before it closes (it is a `Withdraws`).
    `survives_restart`: messages outlive the server's restart. `real`: there is a server behind it that can be stopped and killed.
    """

    name: str
    counts_deliveries: bool = True
    delays_release: bool = True
    expires_deliveries: bool = True
    balances_backlog: bool = True
    refuses_when_full: bool = True
    reports_unread: bool = False
    bounds_deliveries: bool = False
    keeps_read: bool = False
    single_copy: bool = False
    withdraws: bool = False
    survives_restart: bool = True
    real: bool = True
    body_bytes_max: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """What one agent binds: the events its service reacts to, its control channel and the outcome broadcast.

    `known_events` are all events of its choreographies (Kafka declares topics for them). `agent` is this process's
    incarnation, unique among the agents of the service. `create` False: check only, and raise ConfigurationError with a
    report of what is missing. `receives` False: bind nothing, only publish and watch notices.
    """

    service: str
    agent: str
    events: tuple[str, ...]
    known_events: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    create: bool = True
    receives: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One delivered message. `attempt` counts deliveries from 1; `redelivered` is what the broker says.
    `token` is the adapter's own."""

    channel: Channel
    headers: Mapping[str, str]
    body: bytes
    redelivered: bool = False
    attempt: int = 1
    token: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """One message to publish. `key` is the saga id: the partition key where a broker has one. `must_route` is False for an
    event that nobody in the choreography reads."""

    channel: Channel
    key: str
    headers: Mapping[str, str]
    body: bytes
    must_route: bool = True


@dataclass(frozen=True, slots=True)
class Notice:
    """One entry of the `defs` channel: the last one per subject is kept for ever and shown to whoever comes later."""

    subject: str
    body: bytes


class Broker(Protocol):
    """A connection to one broker for one agent. Created from a URL: `Class(url, prefix=...)`.

    Every method may raise BrokerUnavailable when the server cannot be reached; the adapter reconnects by itself, with
    jitter, and the caller simply calls again. No method blocks without a bound, except `receive` and `notices`, which wait
    for something to come and end by cancellation.
    """

    @property
    def features(self) -> BrokerFeatures: ...

    async def open(self, topology: Topology) -> None:
        """Connect, declare or check the channels, bind. Afterwards nothing published to a bound channel is missed.

        Raises BrokerUnavailable, or ConfigurationError (wrong settings, missing channels, credentials refused).
        """
        ...

    async def receive(self, max_messages: int, max_wait_s: float) -> Sequence[Delivery]:
        """What has arrived: waits for the first message, then at most `max_wait_s` more for others, never for a quiet period.

        Bounded: the adapter holds at most a few batches unacknowledged, and asks the server for no more.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done with these for good. An ack that gets lost only means a repeated delivery."""
        ...

    async def release(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        """Hand back: deliver again, to any agent of the service, not before the delay."""
        ...

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        """Publish with confirmation, all in flight at once. One answer per message, in order: None once the broker has it
        durably; else PublishRefused (this message will not do) or BrokerUnavailable (unknown: publish it again)."""
        ...

    async def notify(self, notice: Notice) -> None:
        """Put a notice on the `defs` channel, durably; it replaces the last one of that subject."""
        ...

    def notices(self) -> AsyncIterator[Notice]:
        """All kept notices, in the order in which each was given last, then new ones as they come: whoever hears his own has heard all
        before it. Re-subscribes by itself after a lost connection."""
        ...

    async def close(self) -> None:
        """Hand back what is unacknowledged and disconnect. Idempotent."""
        ...


@runtime_checkable
class Prefers(Protocol):
    """A broker that can serve one agent of a service before the others."""

    def prefer(self, rank: int, held_max: int | None = None) -> bool:
        """What waits from now on goes to this agent only when none of a lower `rank` (0 to 9) takes it; agents of one rank get like parts.
        It takes no more while it has `held_max` events and control messages (None: as many as ever). Returns False where the server, or
        none so far, knows no ranks; each agent gets a like part there."""
        ...


@runtime_checkable
class Withdraws(Protocol):
    """A broker that an agent which stops can leave before it has finished what it works on."""

    async def withdraw(self) -> None:
        """Take no more: what waits, and what has come and was not handed out, goes to the other agents of the service at once."""
        ...


@dataclass(frozen=True, slots=True)
class Connection:
    """How a broker's connection is. `losses` counts how often it was lost since the broker was opened."""

    is_up: bool
    losses: int = 0


@runtime_checkable
class TellsOfConnection(Protocol):
    """A broker with a server behind it says from memory whether it is connected, for health and readiness."""

    @property
    def connection(self) -> Connection: ...
