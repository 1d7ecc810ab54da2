"""A broker that delivers at least once: late, twice, out of order, and sometimes says that it did not when it did."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from saga_choreo.errors import BrokerUnavailable
from saga_choreo.model.envelope import Channel, ChannelKind
from saga_choreo.ports.broker import Outgoing
from saga_choreo.testing.simulator.world import SECOND, World

__all__ = ["Letter", "SimulatedBroker"]


class Letter:
    """One copy of one message on its way to one service. `attempt` counts its deliveries; `is_gone` once acknowledged."""

    __slots__ = ("attempt", "body", "channel", "headers", "is_gone", "is_ready", "service")

    def __init__(self, service: str, channel: Channel, headers: Mapping[str, str], body: bytes) -> None:
        self.service = service
        self.channel = channel
        self.headers = headers
        self.body = body
        self.attempt = 0
        self.is_gone = False
        self.is_ready = False


class SimulatedBroker:
    """`wake` is called with a service when something is there for it."""

    def __init__(self, world: World, readers: Mapping[str, Sequence[str]], services: Sequence[str]) -> None:
        self._world = world
        self._readers = readers
        self._services = services
        self.ready: dict[str, deque[Letter]] = {service: deque() for service in services}
        self.open: dict[Letter, None] = {}
        self._held: list[Letter] = []
        self.dead_letters = 0
        # Called with a message and a service it goes to; may give another one to send there beside it.
        self.stray: Callable[[Outgoing, str], Outgoing | None] | None = None
        self.logs = 0
        self.logged: list[tuple[str, Outgoing]] = []
        self.wake: Callable[[str], object] = str  # set by whoever has the agents

    def _receivers(self, channel: Channel) -> Sequence[str]:
        match channel.kind:
            case ChannelKind.EVENT:
                return self._readers.get(channel.name, ())
            case ChannelKind.CONTROL:
                return (channel.name,)
            case ChannelKind.OUTCOME:
                return self._services
            case _:
                self.dead_letters += 1
                return ()

    def publish(self, message: Outgoing) -> Exception | None:
        """None once the broker has it; an error means that nobody knows."""
        world = self._world
        if world.hit("publish_refused") is not None:
            world.saw("publish refused")
            return BrokerUnavailable("the broker does not answer")
        world.took(message)
        for service in self._receivers(message.channel):
            self.send(service, message)
            if len(self.logged) < self.logs:
                self.logged.append((service, message))
            if self.stray is not None and world.hit("stray") is not None:
                stray = self.stray(message, service)
                if stray is not None:
                    self.send(service, stray, may_be_lost=False)
        if world.hit("publish_unknown") is not None:
            world.saw("publish accepted, but an error")
            return BrokerUnavailable("the connection was lost while waiting for the confirmation")
        return None

    def send(self, service: str, message: Outgoing, *, may_be_lost: bool = True) -> None:
        """What nobody says again must not be lost."""
        world = self._world
        more = world.hit("duplicate")
        if more is not None:
            world.saw("message duplicated")
        for _ in range(1 if more is None else 2 + int(more * 3)):
            if may_be_lost and world.hit("loss") is not None:
                world.saw("message lost")
                continue
            letter = Letter(service, message.channel, message.headers, message.body)
            self.open[letter] = None
            if world.hit("hold") is not None:
                world.saw("message held until all was quiet")
                self._held.append(letter)
                continue
            delay = world.hit("delay")
            if delay is None:
                world.soon(self._arrive, letter)
            else:
                world.after(int(delay * delay * 60 * SECOND), self._arrive, letter)

    def _arrive(self, letter: Letter) -> None:
        if not letter.is_gone and not letter.is_ready:
            letter.is_ready = True
            self.ready[letter.service].append(letter)
            self.wake(letter.service)

    def take(self, service: str, count: int) -> list[Letter]:
        """Deliver up to so many."""
        ready, taken = self.ready[service], list[Letter]()
        while ready and len(taken) < count:
            letter = ready.popleft()
            letter.is_ready = False
            if letter.is_gone:
                continue
            letter.attempt += 1
            taken.append(letter)
            again = self._world.hit("redeliver")
            if again is not None:
                self._world.saw("redelivered while it was worked on, or after")
                self._world.after(int(again * 40 * SECOND), self._arrive, letter)
        return taken

    def ack(self, letter: Letter) -> None:
        lost = self._world.hit("ack_lost")
        if lost is not None:
            self._world.saw("acknowledgement lost")
            self._world.after(int(lost * 30 * SECOND), self._arrive, letter)
            return
        letter.is_gone = True
        self.open.pop(letter, None)

    def give_back(self, letter: Letter, delay_s: float) -> None:
        self._world.after(int(delay_s * SECOND), self._arrive, letter)

    def heal(self) -> None:
        """All is quiet: what was held comes now, the youngest first."""
        for letter in reversed(self._held):
            self._world.soon(self._arrive, letter)
        self._held.clear()
