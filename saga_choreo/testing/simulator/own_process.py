"""A user's own agent in virtual time: its steps and callbacks, on a database file that outlives the processes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import cast

from saga_choreo.core.facts import CancelRequested, Resolved
from saga_choreo.errors import KeyConflict, SagaError
from saga_choreo.model.event import Event
from saga_choreo.model.record import Record
from saga_choreo.runtime.agent import Agent
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.plugins import make_store
from saga_choreo.runtime.sagas import Start, start
from saga_choreo.runtime.session import Session
from saga_choreo.testing.simulator.live_ports import FaultyBroker
from saga_choreo.testing.simulator.live_process import AgentProcess, Home
from saga_choreo.testing.simulator.own_ports import MortalStore, OwnStore

__all__ = ["OwnProcess"]

_READY_S = 10.0


class OwnProcess(AgentProcess):
    """`url` is the service's database."""

    def __init__(self, house: Home, agent: Agent, url: str, number: int) -> None:
        super().__init__(house, agent.name, number)
        self._agent = agent
        self._url = url
        # Announcements are repeated sooner, so that a run is over sooner.
        self._limits = replace(agent.limits, reannounce=house.limits.reannounce, nudge_first_s=5, nudge_max_s=30)

    def _new_session(self, broker: FaultyBroker) -> Session:
        mortal = cast("MortalStore", make_store(self._url, inline=True, clock=self._clock))
        self._own_store = OwnStore(self._world, mortal, self._boundary, self.name)
        return self._agent.session_on(self._own_store, broker, self._clock, self._limits)

    def _lose_store(self) -> None:
        self._own_store.inner.crash()

    def start_saga(self, event: Event, key: str, deadline: timedelta | None) -> None:
        """A client's call, in this process. Whether it worked is seen in the store."""
        session = self._session

        async def begin() -> None:
            try:
                known = await _started_by(session, event)
                what = Start(event=event, key=key, deadline=deadline, trace="")
                await start(session, known, what, None, session.limits.ready_timeout_s)
            except KeyConflict as error:
                self._world.broken("BUG", f"the same start is called another one: {error}")
            except SagaError as error:
                self._world.note(self.name, f"cannot start: {type(error).__name__}")

        self._do(begin)

    def cancel(self, record: Record) -> None:
        self.command(record.record_key, record.step, CancelRequested(), _no_matter)

    def retry(self, record: Record) -> None:
        """An operator's word on a parked step: the cause is mended, try again."""
        self.command(record.record_key, record.step, Resolved("retry", "simulated"), _no_matter)


async def _started_by(session: Session, event: Event) -> Known:
    for form in session.part.shared:
        known = session.catalog.get(form.definition) if form.start == event.event else None
        if known is not None:
            return known
    return await session.directory.assembled(_READY_S)


def _no_matter(*heard: object) -> None:
    del heard
