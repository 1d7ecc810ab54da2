"""Noticing that the store went back in time: restored from a backup, failed over to a replica that missed commits, cut short by a crash.

No protocol mends that: messages were published, and acknowledged, because of commits that are gone. So an agent raises a position in its
store every few seconds and tells it on the `defs` channel (`epoch.<service>`). At its start, and whenever it had lost its store, it
compares: another history, or a position lower than what was told, and it stops working until a person has looked
(`saga-choreo store accept-epoch --reason ...`). What was lost between the last telling and the crash of a store can not be seen.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from saga_choreo.core.rows import is_finished
from saga_choreo.errors import NotReady, SagaError, StoreUnavailable
from saga_choreo.ports.broker import Broker, Notice
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.store import SagaFilter
from saga_choreo.ports.upkeep import Epoch, Upkeep
from saga_choreo.runtime.plugins import WholeStore

__all__ = ["Epochs", "Told", "acceptance", "is_accepted", "suspects", "went_back"]

_log = logging.getLogger("saga_choreo.epochs")
_LOOK_S = 1.0
# How long a start waits to hear its own question on the `defs` channel, behind everything that was told before.
_REPLAY_S = 3.0
_SUSPECTS_MAX = 1_000
_SHOWN = 20
_SAID = "the store of service {service!r} went back in time: {why}"
_ADVICE = (
    "Nothing is worked on until somebody has looked: compare with the other participants (sagas open here: {open}), "
    "then run: saga-choreo store accept-epoch --service {service} --reason ..."
)


@dataclass(frozen=True, slots=True)
class Told:
    """What some agent of the service told last."""

    identity: str
    position: int
    at_ms: int


def went_back(told: Told, now: Epoch) -> str:
    """Why the store is not what it was told to be; empty when it is."""
    if now.identity != told.identity:
        return f"it is {now.identity!r}, and was {told.identity!r}: another database, or one after a failover"
    if now.position < told.position:
        return f"it is at position {now.position}, and had reached {told.position}: commits are missing (a restored backup?)"
    return ""


def acceptance(now: Epoch, operator: str, reason: str, at_ms: int) -> str:
    """The note that accepts the store as it is."""
    return json.dumps({"identity": now.identity, "operator": operator, "reason": reason, "at_ms": at_ms}, ensure_ascii=False)


def is_accepted(told: Told, now: Epoch) -> bool:
    """Whether a person accepted this very history after it was told."""
    try:
        note = json.loads(now.note)
        return bool(note["identity"] == now.identity and note["at_ms"] > told.at_ms)
    except (ValueError, KeyError, TypeError):
        return False


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
        self._told: Told | None = None
        self._asked_ms = 0
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
            if body["agent"] == self._agent or int(body["at_ms"]) >= self._asked_ms > 0:
                self._replayed.set()
            return
        told = Told(str(body["identity"]), int(body["position"]), int(body["at_ms"]))
        if body["agent"] != self._agent and (self._told is None or told.at_ms >= self._told.at_ms):
            self._told = told

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
        self._asked_ms = self._now_ms()
        body = orjson.dumps({"agent": self._agent, "at_ms": self._asked_ms})
        await self._broker.notify(Notice(f"epoch-asked.{self._service}", body))

    async def run(self) -> None:
        """Until cancelled: listen, compare, tell."""
        if self._upkeep is None:
            return
        try:
            async with asyncio.timeout(_REPLAY_S):
                await self._replayed.wait()
        except TimeoutError:
            _log.info("what was told of the store's history did not come within %s s; going on without", _REPLAY_S)
        while True:
            try:
                await self._beat(self._upkeep)
            except SagaError as error:
                _log.info("the store's history could not be looked at or told (%s); it is tried again", error)
            await self._pause(_LOOK_S if self.suspicion else self._every_s)

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
        told = self._told  # before the store is read, which is then at least there
        try:
            now = await upkeep.epoch(self._service)
            why = went_back(told, now) if told is not None else ""
            if told is not None and why and not is_accepted(told, now):
                await self._stop(why)
                return
            now = await upkeep.advance(self._service, told.position if told is not None and why else 0)
        except StoreUnavailable:
            self.doubt()
            raise
        if self.suspicion:
            _log.warning("the store of service %r is accepted as it is; the agent goes on", self._service)
        self._told = Told(now.identity, now.position, self._now_ms())
        self.suspicion = ""
        if not self._doubted.is_set():
            self._clear.set()
        body = {"service": self._service, "agent": self._agent, **_fields(self._told)}
        await self._broker.notify(Notice(f"epoch.{self._service}", orjson.dumps(body)))

    async def _stop(self, why: str) -> None:
        self._clear.clear()
        if self.suspicion == why:
            return
        self.suspicion = why
        found = await suspects(self._store, self._service)
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        advice = _ADVICE.format(service=self._service, open=(", ".join(found[:_SHOWN]) or "none") + more)
        _log.critical("%s. %s", _SAID.format(service=self._service, why=why), advice)

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def _fields(told: Told) -> dict[str, str | int]:
    return {"identity": told.identity, "position": told.position, "at_ms": told.at_ms}
