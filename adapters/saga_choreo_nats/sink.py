"""A subscription's messages as plain calls.

nats-py offers a callback (a task and a queue per subscription, one wake-up per message) or a future. A future whose
`set_result` is a function gets every message right out of the parser: no queue, no task to stop, and about half the CPU.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Sink", "Take"]

_log = logging.getLogger("saga_choreo.nats")


# What a message is: subject, reply subject, body and headers.
Take = Callable[[str, str, bytes, Mapping[str, str] | None], None]


class Sink(asyncio.Future[Any]):
    """Looks like a future that is never done. The function it calls must be quick."""

    def __init__(self, take: Take) -> None:
        super().__init__()
        self._take = take

    def set_result(self, result: Any, /) -> None:
        self.hear(result.subject, result.reply, result.data, result.headers)

    def hear(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None) -> None:
        try:
            self._take(subject, reply, data, headers)
        except Exception:  # noqa: BLE001  (raised further it would end nats-py's read loop; the message is delivered again)
            _log.exception("a message on %r could not be read", subject)
