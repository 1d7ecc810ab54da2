"""The `defs` channel: every kept notice once, then new ones, on a short-lived consumer that is made again when it falls silent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from nats import errors as nats_errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from saga_choreo.ports import Notice
from saga_choreo_nats.ending import go_on
from saga_choreo_nats.link import Link
from saga_choreo_nats.names import Names, unescape
from saga_choreo_nats.sink import Sink

__all__ = ["watch"]

_HEARTBEAT_S = 2.0
_SILENT_S = 5.0
_RETRY_S = 1.5
# Notices are few and small; more than this unread means the reader is gone or far too slow: start over.
_UNREAD_MAX = 10_000


class _Watch:
    """One consumer on one client. `broken` says that something was missed and it must be made again."""

    def __init__(self) -> None:
        self.unread: deque[tuple[str, bytes]] = deque()
        self.heard = asyncio.Event()
        self.broken = False
        self._expected = 1

    def take(self, subject: str, reply: str, data: bytes, _headers: Mapping[str, str] | None) -> None:
        self.heard.set()
        if not reply:
            return  # a heartbeat
        consumer_sequence = int(reply.split(".")[-3])
        if consumer_sequence != self._expected or len(self.unread) >= _UNREAD_MAX:
            self.broken = True
            return
        self._expected += 1
        self.unread.append((subject, data))


async def watch(link: Link, names: Names) -> AsyncIterator[Notice]:
    """After a lost connection the kept notices come again; a notice replaces the last one of its subject, so that is harmless."""
    start = len(f"{names.prefix}.defs.")
    while True:
        await link.up.wait()
        client = link.client
        seen = _Watch()
        subscription: Any = None
        link.on_lost.add(seen.heard.set)
        try:
            subscription = await _subscribe(client, names, seen)
            go_on()
            while client is link.client and not seen.broken:
                while seen.unread:
                    subject, body = seen.unread.popleft()
                    yield Notice(unescape(subject[start:]), body)
                if not await _heard(seen):
                    break
        except (nats_errors.Error, OSError, TimeoutError):
            await asyncio.sleep(_RETRY_S)  # the stream is missing, or the server is busy; the link says which
        finally:
            link.on_lost.discard(seen.heard.set)
            await _drop(client, link, subscription)


async def _subscribe(client: Any, names: Names, seen: _Watch) -> Any:
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, future=Sink(seen.take))
    await client.jetstream().add_consumer(
        names.defs,
        ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            filter_subject=names.all_defs,
            ack_policy=AckPolicy.NONE,
            idle_heartbeat=_HEARTBEAT_S,
            inactive_threshold=30.0,
            mem_storage=True,
            num_replicas=1,
        ),
    )
    return subscription


async def _heard(seen: _Watch) -> bool:
    seen.heard.clear()
    if seen.unread:
        return True
    try:
        async with asyncio.timeout(_SILENT_S):
            await seen.heard.wait()
    except TimeoutError:
        return False
    return True


async def _drop(client: Any, link: Link, subscription: Any) -> None:
    """Without its inbox the server removes the consumer by itself."""
    if subscription is not None and client is link.client and not client.is_closed:
        await subscription.unsubscribe()
