"""Noticing that the store went back in time: restored from a backup, failed over to a replica that missed commits, cut short by a crash.

No protocol mends that: messages were published, and acknowledged, because of commits that are gone. So an agent raises a position in its
store every few seconds and tells it on the `defs` channel (`epoch.<service>`). At its start, and whenever it had lost its store, it
compares: another history, or a position lower than what was told, and it stops working until a person has looked
(`saga-choreo store accept-epoch --reason ...`). What was lost between the last telling and the crash of a store can not be seen.

Only the last word of a service is kept on the channel. So an agent tells nothing before it has heard all that was told: until it hears
its own question (`epoch-asked.<service>`), which it repeats.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import orjson

from saga_choreo.core.rows import is_finished
from saga_choreo.errors import NotReady, SagaError, StoreUnavailable
from saga_choreo.ports.broker import Broker, Notice
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import SagaFilter
from saga_choreo.ports.upkeep import Epoch, Upkeep
from saga_choreo.runtime.accepting import Acceptance, unused, went_back
from saga_choreo.runtime.plugins import WholeStore

__all__ = ["Epochs", "suspects"]

_log = logging.getLogger("saga_choreo.epochs")
_LOOK_S = 1.0
# How long an agent waits to hear what was told before it works without, and how often it repeats its question meanwhile.
_REPLAY_S = 30.0
_ASK_AGAIN_S, _ASK_AGAIN_MAX_S = 0.5, 5.0
# Histories that are compared with, and acceptances that are told: there is one of each per restore or failover.
_TOLD_MAX = 16
_SUSPECTS_MAX = 1_000
_SHOWN = 20
_SAID = "the store of service {service!r} went back in time: {why}"
_ADVICE = (
    "Nothing is worked on until somebody has looked: compare with the other participants (sagas open here: {open}), "
    "then run: saga-choreo store accept-epoch --service {service} --reason ..."
)


async def suspects(store: WholeStore, service: str, limit: int = _SUSPECTS_MAX) -> list[str]:
    """Sagas that are open here: the commits that are missing may have been theirs. Newest first."""
    groups = await store.sagas(SagaFilter(service=service, limit=limit))
    return [str(group[0].saga_id) for group in groups if group and not all(is_finished(record.row) for record in group)]


class Epochs:
    """Says whether the agent may work (`until_clear`). Without effect on a store that is private to its process, or tells nothing."""

    def __init__(
        self,
        service: str,
        agent: str,
        store: WholeStore,
        broker: Broker,
        clock: Clock,
        every_s: float,
        on_doubt: Callable[[], object] = bool,
    ) -> None:
        """`on_doubt` is called when what this process remembers of the store may not be true any more."""
        self._service = service
        self._agent = agent
        self._store = store
        self._broker = broker
        self._clock = clock
        self._every_s = every_s
        self._on_doubt = on_doubt
        self._upkeep = store if store.features.shared and isinstance(store, Upkeep) else None
        # History -> the highest position that was told of it, whenever it comes: clocks differ, positions only rise.
        self._told: dict[str, int] = {}
        # Acceptances with which some agent has gone on.
        self._used: list[str] = []
        self._replayed = asyncio.Event()
        self._doubted = asyncio.Event()
        self._clear = asyncio.Event()
        self.suspicion = ""
        if self._upkeep is None:
            self._clear.set()

    async def until_clear(self, wait_s: float | None = None) -> bool:
        """Whether the agent may work, now or within that time."""
        if not self._clear.is_set():
            try:
                async with asyncio.timeout(wait_s):
                    await self._clear.wait()
            except TimeoutError:
                return False
        return True

    async def cleared(self) -> None:
        await self._clear.wait()

    async def require_clear(self, wait_s: float) -> None:
        """Raises NotReady."""
        if not await self.until_clear(wait_s):
            why = self.suspicion or "it has not been looked at yet"
            raise NotReady(f"{_SAID.format(service=self._service, why=why)}; no saga is started until that is accepted")

    def hear(self, notice: Notice) -> None:
        """A notice of the kind `epoch` or `epoch-asked`. Raises what a body that is none raises."""
        word, _, service = notice.subject.partition(".")
        if service != self._service:
            return
        body = orjson.loads(notice.body)
        if word == "epoch-asked":
            if body["agent"] == self._agent:
                self._replayed.set()
            return
        self._note_told(str(body["identity"]), int(body["position"]))
        for one in body.get("accepted", ()):
            self._note_used(str(one))

    def _note_told(self, identity: str, position: int) -> None:
        self._told[identity] = max(position, self._told.get(identity, 0))
        while len(self._told) > _TOLD_MAX:
            del self._told[min(self._told, key=self._told.__getitem__)]

    def _note_used(self, acceptance_id: str) -> None:
        if acceptance_id not in self._used:
            self._used = [*self._used, acceptance_id][-_TOLD_MAX:]

    def doubt(self) -> None:
        """The store was out of reach: it may come back as another. Nothing is worked on until it has been looked at."""
        self._on_doubt()
        if self._upkeep is not None:
            self._clear.clear()
            self._doubted.set()

    async def ask(self) -> None:
        """Before listening: what comes back behind this question is all that was told."""
        if self._upkeep is None:
            return
        body = orjson.dumps({"agent": self._agent, "at_ms": self._now_ms()})
        await self._broker.notify(Notice(f"epoch-asked.{self._service}", body))

    async def run(self) -> None:
        """Until cancelled: listen, compare, tell."""
        if self._upkeep is None:
            return
        await self._listen()
        while True:
            try:
                await self._beat(self._upkeep)
            except SagaError as error:
                _log.info("the store's history could not be looked at or told (%s); it is tried again", error)
            await self._pause(_LOOK_S if self.suspicion else self._every_s)

    async def _listen(self) -> None:
        """Until all that was told has been heard. Somebody else's question may have replaced ours: it is put again."""
        give_up, wait_s = self._clock.monotonic() + _REPLAY_S, _ASK_AGAIN_S
        while not await self._has_replayed(wait_s):
            if self._clock.monotonic() >= give_up:
                _log.warning(
                    "what was told of the store of service %r did not come from the broker within %g s; the agent works without having "
                    "compared, and compares when it comes; look why the broker's 'defs' channel cannot be read",
                    self._service,
                    _REPLAY_S,
                )
                return
            await self._ask_again()
            wait_s = min(2 * wait_s, _ASK_AGAIN_MAX_S)

    async def _has_replayed(self, wait_s: float) -> bool:
        try:
            async with asyncio.timeout(wait_s):
                await self._replayed.wait()
        except TimeoutError:
            return False
        return True

    async def _ask_again(self) -> None:
        try:
            await self.ask()
        except SagaError as error:
            _log.info("what was told of the store's history could not be asked for (%s); it is tried again", error)

    async def _pause(self, seconds: float) -> None:
        if self._doubted.is_set():
            await self._clock.sleep(_LOOK_S / 4)
        try:
            async with asyncio.timeout(seconds):
                await self._doubted.wait()
        except TimeoutError:
            pass

    async def _beat(self, upkeep: Upkeep) -> None:
        self._doubted.clear()
        told = dict(self._told)  # before the store is read, which is then at least there
        try:
            now = await upkeep.epoch(self._service)
            why, acceptance = went_back(told, now), unused(now, self._used)
            if why and acceptance is None:
                await self._stop(why)
                return
            if not self._replayed.is_set():
                self._go_on()
                await self._ask_again()
                return
            note = acceptance.used(told).note() if acceptance is not None else ""
            now = await upkeep.advance(self._service, max(told.values(), default=0) if why else 0, note)
        except StoreUnavailable:
            self.doubt()
            raise
        self._settle(told, now)
        self._go_on()
        await self._tell(now)

    def _settle(self, told: Mapping[str, int], now: Epoch) -> None:
        """What was told before is reached, or accepted; what has come meanwhile is compared the next time."""
        for identity, position in told.items():
            if self._told.get(identity) == position:
                del self._told[identity]
        self._note_told(now.identity, now.position)
        if (acceptance := Acceptance.of(now.note)) is not None:
            self._note_used(acceptance.id)

    def _go_on(self) -> None:
        if self.suspicion:
            _log.warning("the store of service %r is accepted as it is; the agent goes on", self._service)
        self.suspicion = ""
        if not self._doubted.is_set():
            self._clear.set()

    async def _tell(self, now: Epoch) -> None:
        words = {"identity": now.identity, "position": now.position, "accepted": self._used, "at_ms": self._now_ms()}
        body = orjson.dumps({"service": self._service, "agent": self._agent, **words})
        await self._broker.notify(Notice(f"epoch.{self._service}", body))

    async def _stop(self, why: str) -> None:
        self._clear.clear()
        if self.suspicion == why:
            return
        found = await suspects(self._store, self._service)
        self.suspicion = why
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        advice = _ADVICE.format(service=self._service, open=(", ".join(found[:_SHOWN]) or "none") + more)
        _log.critical("%s. %s", _SAID.format(service=self._service, why=why), advice)

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000
