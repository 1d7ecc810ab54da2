"""Sagas that start from plain events: what a service without an agent publishes, on the channel of a choreography's start event.

A message without any header of a saga is plain. The service that declared `starts_on` starts a saga from it before it is acknowledged,
under the business key made of it: delivered again, or sent twice, it names the same saga. The start event then goes out as the first
fact of the saga. Other services that read the event are told (a notice `plain.<event>.<service>`), and leave plain ones to that service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from saga_choreo.codec.strict_json import check_object
from saga_choreo.codec.wire import is_plain
from saga_choreo.errors import DecodeError, DefinitionError, KeyConflict, ResultTooLarge, SagaError
from saga_choreo.model.event import Event
from saga_choreo.ports.broker import Delivery
from saga_choreo.runtime.declare.payload import decoder_of
from saga_choreo.runtime.driver import Driver
from saga_choreo.runtime.hopeless import put_in_quarantine
from saga_choreo.runtime.part import Part
from saga_choreo.runtime.sagas import Start, start, started_by
from saga_choreo.runtime.session import Session
from saga_choreo.runtime.stored import storable

__all__ = ["CODES", "PlainStart", "PlainStarts", "check_plain"]

_log = logging.getLogger("saga_choreo.agent")
# Handed back for so long, times the deliveries.
_AGAIN_S, _AGAIN_MAX_S = 2.0, 60.0
# Under these a plain event is quarantined, beside those of payloads that are not JSON.
CODES = ("payload_invalid", "key_conflict", "cannot_start")


@dataclass(frozen=True, slots=True)
class PlainStart:
    """What was said with `agent.starts_on`."""

    model: type[Event]
    key: Callable[[Any], str]
    choreography: str


def check_plain(part: Part, starts: Sequence[PlainStart]) -> None:
    """Raises DefinitionError with all faults."""
    forms = [form for form in (*part.shared, part.assembles) if form is not None]
    faults: list[str] = []
    for one in starts:
        ref = one.model.event
        found = [form.name for form in forms if form.start == ref and one.choreography in ("", form.name)]
        if len(found) != 1:
            named = ", ".join(sorted(f"{form.name} ({form.start})" for form in forms)) or "none"
            advice = "name one with choreography=..." if found else f"start events here: {named}"
            faults.append(f"starts_on names event {str(ref)!r}, which starts {len(found)} choreographies of it; {advice}")
    if faults:
        listed = "".join(f"\n  - {fault}" for fault in faults)
        raise DefinitionError(f"agent {part.service!r} cannot start; {len(faults)} to correct:{listed}", faults)


class PlainStarts:
    """Takes plain events out of what comes; `then` gets the rest."""

    def __init__(
        self, session: Session, starts: Sequence[PlainStart], then: Callable[[Sequence[Delivery]], Awaitable[None]]
    ) -> None:
        self._session = session
        self._starts = {
            one.model.event.name: (one, decoder_of(one.model, f"plain event {one.model.event.name!r}")) for one in starts
        }
        self._then = then

    async def handle(self, deliveries: Sequence[Delivery]) -> None:
        plain = [one for one in deliveries if one.channel.name in self._starts and is_plain(one.channel, one.headers)]
        if plain:  # together, so that their sagas share a commit
            await asyncio.gather(*(self._take(one) for one in plain))
        rest = [one for one in deliveries if one not in plain]
        if rest:
            await self._then(rest)

    async def _take(self, delivery: Delivery) -> None:
        session = self._session
        try:
            await self._start(delivery)
            await session.broker.ack([delivery])
        except (DecodeError, KeyConflict, ResultTooLarge, ValueError) as error:
            code = (
                error.code
                if isinstance(error, DecodeError)
                else "key_conflict"
                if isinstance(error, KeyConflict)
                else "cannot_start"
            )
            _log.warning("plain event on %s quarantined (%s): %s", delivery.channel, code, error)
            await Driver(session).run(put_in_quarantine(session.service, delivery, code, storable(str(error))))
        except SagaError as error:
            _log.info("no saga is started from a plain event on %s yet, and it is tried again: %s", delivery.channel, error)
            await self._hand_back(delivery)
        except Exception:  # noqa: BLE001  a bug of ours over one message must not stop the others
            _log.exception("a plain event on %s met an unexpected error, and is tried again", delivery.channel)
            await self._hand_back(delivery)

    async def _hand_back(self, delivery: Delivery) -> None:
        try:
            await self._session.broker.release([delivery], min(_AGAIN_S * delivery.attempt, _AGAIN_MAX_S))
        except SagaError as error:
            _log.info("a plain event could not be handed back (%s); the broker delivers it again later", error)

    async def _start(self, delivery: Delivery) -> None:
        said, decode = self._starts[delivery.channel.name]
        check_object(delivery.body)
        event = decode(delivery.body)
        try:
            key = said.key(event)
        except Exception as error:
            raise ValueError(
                f"the key of a plain event {said.model.event.name!r} cannot be made: {type(error).__name__}"
            ) from error
        if not isinstance(key, str) or not key:  # pyright: ignore[reportUnnecessaryIsInstance]  (the user's function)
            raise ValueError(f"the key of a plain event {said.model.event.name!r} is {key!r}; make a text of what names it once")
        known = await started_by(self._session, said.model.event, said.choreography, 0.0)
        headers = {name.lower(): value for name, value in delivery.headers.items()}
        parent = headers.get("traceparent", "")
        trace = f"{parent}\n{headers.get('tracestate', '')}" if parent else ""
        await start(self._session, known, Start(event=event, key=key, deadline=None, trace=trace), None, 0.0)
