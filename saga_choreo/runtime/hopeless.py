"""A message over which this code fails unexpectedly, time after time: a bug of ours, or of what we stand on.

It is handed back, later and later, since another release or another state of the saga may do better. After many deliveries it is
set aside as a message that can never be applied is: kept, told of, and acknowledged. Its saga stands still until somebody acts,
or its sender announces again; all others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

from saga_choreo.codec.wire import decode
from saga_choreo.errors import DecodeError
from saga_choreo.model.envelope import Channel, ChannelKind
from saga_choreo.ports.broker import Delivery, Outgoing
from saga_choreo.ports.store import Quarantined
from saga_choreo.runtime.letters import harmless
from saga_choreo.runtime.operations import Ack, Begin, Commit, Now, Operation, Publish, Save
from saga_choreo.runtime.stored import storable

__all__ = ["CODE", "later_s", "put_in_quarantine", "set_aside"]

_log = logging.getLogger("saga_choreo.agent")
CODE = "unexpected_error"
_FIRST_S = 5.0
_MAX_S = 60.0


def later_s(delivered: int) -> float:
    """How long a message is handed back for after so many deliveries: twenty of them take a quarter of an hour."""
    return min(_FIRST_S * float(1 << min(delivered - 1, 10)), _MAX_S)


def set_aside(service: str, delivery: Delivery, error: Exception) -> Generator[Operation, Any, None]:
    """Keep it in quarantine, acknowledge it, and send a copy to the dead-letter channel. Dying in between repeats some of that."""
    saga = _saga_of(delivery)
    detail = storable(f"delivered {delivery.attempt} times, and each time {type(error).__name__}: {error}")
    yield from put_in_quarantine(service, delivery, CODE, detail, saga)
    _log.critical(
        "message on %s of saga %r is quarantined (%s): %s; this is probably a bug of saga-choreo: the traceback is in the log above, "
        "please report it; the saga waits until the message is applied or its sender announces it again",
        delivery.channel,
        saga,
        CODE,
        detail,
    )


def put_in_quarantine(service: str, delivery: Delivery, code: str, detail: str, saga: str = "") -> Generator[Operation, Any, None]:
    """The same, quietly."""
    now_ns, _ = yield Now()
    kept = Quarantined(
        service=service,
        code=code,
        detail=detail,
        channel=str(delivery.channel),
        headers=delivery.headers,
        body=delivery.body,
        received_ms=now_ns // 1_000_000,
        saga_id=saga,
    )
    yield Begin()
    yield Save((), [kept], counters={(service, "quarantined"): 1})
    yield Commit()
    yield Ack([delivery])
    headers = {**harmless(delivery.headers), "saga-quarantine-code": code, "saga-quarantine-service": service}
    yield Publish([], [Outgoing(Channel(ChannelKind.DLQ), saga, headers, delivery.body, must_route=False)])


def _saga_of(delivery: Delivery) -> str:
    try:
        return str(decode(delivery.channel, delivery.headers, delivery.body).saga_id)
    except DecodeError:
        return ""
