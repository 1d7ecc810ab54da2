"""The demo's own ear on the broker: a plain NATS client without an agent, and the server's word on what is unacknowledged.

The one module of the toolkit that talks to a broker by itself: it has to see what a stranger sees, not what an adapter says.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from saga_choreo.codec.values import parse_time, percent_decode
from saga_choreo.demo.hops import Heard
from saga_choreo.errors import AdapterNotInstalled, BrokerUnavailable, DecodeError

__all__ = ["Backlog", "Wire", "listening"]

_PREFIX = "saga"
_STREAMS = (f"{_PREFIX}_events", f"{_PREFIX}_control")
_SUBJECTS = (f"{_PREFIX}.event.>", f"{_PREFIX}.control.>", f"{_PREFIX}.outcome")
_ENDS = frozenset({"saga.completed", "saga.failed", "saga.cancelled", "saga.timed_out"})
_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """Messages of one service: delivered to an agent and not acknowledged; not delivered yet."""

    unacked: int = 0
    waiting: int = 0


class Wire:
    """What was heard so far. Made by `listening`."""

    def __init__(self, client: Any) -> None:
        self._js = client.jetstream(timeout=_ANSWER_S)
        self.heard: list[Heard] = []
        self._ended: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def ended(self, saga_id: str) -> asyncio.Event:
        """Set when the saga's outcome was announced."""
        return self._ended[saga_id]

    async def hear(self, message: Any) -> None:
        try:
            one = _heard(message.headers or {})
        except (DecodeError, KeyError):
            return  # not a message of a saga; the agents quarantine such a one
        self.heard.append(one)
        if one.word in _ENDS:
            self._ended[one.saga_id].set()

    async def backlog(self, service: str) -> Backlog:
        """Of the service's durables, as the server counts. Raises BrokerUnavailable."""
        unacked = waiting = 0
        for stream in _STREAMS:
            try:
                found = await self._js.consumer_info(stream, service)
            except _not_found():
                continue  # the order service reads one stream only when it reacts to no event
            except (TimeoutError, OSError, _nats_error()) as exc:
                raise BrokerUnavailable(f"JetStream does not say what {service!r} has to do ({exc}); is it up?") from exc
            unacked += found.num_ack_pending or 0
            waiting += found.num_pending or 0
        return Backlog(unacked, waiting)


def _heard(headers: dict[str, str]) -> Heard:
    return Heard(
        saga_id=headers["ce-sagaid"],
        word=headers["ce-sagamsg"],
        type=headers["ce-type"],
        step=headers.get("ce-sagafrom", ""),
        service=headers["ce-source"].rpartition("/")[2],
        reason=percent_decode("ce-sagareason", headers.get("ce-sagareason", "")),
        at_ns=parse_time("ce-time", headers["ce-time"]),
    )


def _not_found() -> type[BaseException]:
    from nats.js.errors import NotFoundError

    return NotFoundError


def _nats_error() -> type[BaseException]:
    from nats.errors import Error

    return Error


@asynccontextmanager
async def listening(url: str) -> AsyncGenerator[Wire]:
    """Listen to everything the agents publish. Raises AdapterNotInstalled, BrokerUnavailable."""
    try:
        from nats.aio.client import Client
    except ImportError as exc:
        raise AdapterNotInstalled(
            "the demo needs the package nats-py, which is not installed; run: pip install 'saga-choreo[demo]'"
        ) from exc
    client: Any = Client()
    try:
        await client.connect(url, connect_timeout=5, error_cb=_ignored)
    except (TimeoutError, OSError, _nats_error()) as exc:
        raise BrokerUnavailable(
            f"the NATS server at {url!r} does not answer ({exc}); its log is beside the services' logs"
        ) from exc
    wire = Wire(client)
    try:
        for subject in _SUBJECTS:
            await client.subscribe(subject, cb=wire.hear)
        await client.flush()
        yield wire
    finally:
        await client.close()


async def _ignored(_error: Exception) -> None:
    """A lost connection shows as sagas that are not heard to end, and those are asked after in the store."""
