"""Removes from the streams what every reader has acknowledged, many messages at a time.

Interest retention would do this by itself, message by message, and sync each removal to the disk: as many syncs again as for
publishing (measured: 12.4 a saga instead of 6.7). So the streams keep messages up to the horizon, and agents cut off what lies below
the lowest acknowledgement of all durables. It is the same promise: what a reader has not acknowledged stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from typing import Any

from nats import errors as nats_errors
from nats.js.errors import NotFoundError

from saga_choreo_nats.link import Link

__all__ = ["Trimmer", "done_below"]

_log = logging.getLogger("saga_choreo.nats")

_EVERY_S = 10.0
# At once when the stream is full, but no more often than this.
_PAUSE_S = 1.0
# Cutting rewrites a part of a block of the stream: not worth it for less, as long as there is room.
_WORTH_MESSAGES = 10_000
# A reader with nothing left to do has done what the stream held so long ago. What it holds now, the reader's leader may not have seen.
_SETTLED_S = 5.0
# A cluster answers after 4 s with the readers it has heard of by then: rather no answer than half of one.
_TIMEOUT_MAX_S = 3.0


class Trimmer:
    """Every agent looks, at its own random times; cutting twice does no harm. `full` is set by whoever was refused for want of room."""

    def __init__(self, link: Link, streams: Sequence[str], timeout_s: float, full: asyncio.Event) -> None:
        self._link = link
        self._streams = streams
        self._timeout_s = timeout_s
        self._full = full
        self._noted: dict[str, tuple[float, int]] = {}

    async def run(self) -> None:
        said = ""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S * (0.5 + random.random())):  # noqa: S311  (jitter, not a secret)
                    await self._full.wait()
            is_full = self._full.is_set()
            self._full.clear()
            if self._link.up.is_set():
                try:
                    for stream in self._streams:
                        await self._trim(stream, worth=1 if is_full else _WORTH_MESSAGES)
                except (nats_errors.Error, TimeoutError, OSError) as exc:
                    if str(exc) != said:
                        said = str(exc)
                        _log.warning("streams %s could not be trimmed, and keep all up to the horizon: %s", self._streams, exc)
            await asyncio.sleep(_PAUSE_S)

    async def _trim(self, stream: str, *, worth: int) -> None:
        js = self._link.client.jetstream(timeout=min(self._timeout_s, _TIMEOUT_MAX_S))
        with contextlib.suppress(NotFoundError):  # it is being declared again
            info = await js.stream_info(stream)
            state, settled = info.state, self._settled(stream, info.state.last_seq)
            if state.messages < worth or any(not one.current or one.lag for one in (info.cluster and info.cluster.replicas) or ()):
                return
            readers: list[Any] = []
            while page := await js.consumers_info(stream, offset=len(readers)):
                readers += page
            below = done_below(readers, settled)
            if len(readers) == state.consumer_count and below - state.first_seq >= worth:
                await js.purge_stream(stream, seq=below)

    def _settled(self, stream: str, last_seq: int) -> int:
        """What the stream held at a look some seconds ago; 0 when there was none."""
        now = asyncio.get_running_loop().time()
        when, then = self._noted.get(stream, (now, 0))
        if stream in self._noted and then <= last_seq and now - when < _SETTLED_S:
            return 0
        self._noted[stream] = (now, last_seq)
        return then if then <= last_seq else 0  # a lower end: it was declared anew


def done_below(readers: Sequence[Any], settled: int) -> int:
    """The sequence below which every reader has acknowledged all that it reads; 0 without readers. One with nothing left to do has
    done all up to `settled`, which the stream held some time ago."""
    floors = [
        max(settled, reader.ack_floor.stream_seq)
        if not reader.num_pending and not reader.num_ack_pending
        else reader.ack_floor.stream_seq
        for reader in readers
    ]
    return min(floors) + 1 if floors else 0
