"""Agents of one service that look after each other, where the server would wait long for a dead one.

The server notices a dead member when its session is over, and lets none be shorter than `group.min.session.timeout.ms`, by default six
seconds. Where it refuses the session that we ask for, every commit of an offset also says who made it, and a number that grows; each
member makes one a heartbeat. Whoever has partitions and is not heard for as long as that session is put out of the group by the others,
as if it had left. Being wrong costs a rebalance: whoever lives joins again. Whoever was never heard is left to the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from saga_choreo_kafka.clients import committed_offsets, member_of, partitions_of, put_out, working_members

__all__ = ["Peers", "Silence", "longer_session"]

_log = logging.getLogger("saga_choreo.kafka")

_LOOK_S = 5.0
# The shortest session that Kafka allows unless told otherwise, and what operators set there.
_SESSIONS_S = (6.0, 10.0, 30.0)
# Whoever was held up itself has looked seldom meanwhile, and has nothing to say about others.
_LOOKS = 3


@dataclass(slots=True)
class _Heard:
    count: int
    at: float
    looks: int = 0
    is_gone: bool = False


class Peers:
    """`session_s`: how long a member may be silent; `every_s`: how often they are looked at."""

    def __init__(self, session_s: float, every_s: float) -> None:
        # A sign of life is seen up to a look after it was made.
        self._silence = Silence(session_s - every_s)
        self._every_s = every_s
        self._due_at = 0.0
        self._count = 0

    def forget(self) -> None:
        """After a rebalance: what stands beside offsets may be of members that are gone, or make their commits elsewhere now."""
        self._silence = Silence(self._silence.patience_s)

    def sign(self, consumer: Any) -> str:
        """To be committed behind the mark."""
        self._count += 1
        return f" {self._count} {member_of(consumer)}"

    def is_due(self) -> bool:
        return asyncio.get_running_loop().time() >= self._due_at

    async def look(self, consumer: Any, topics: Sequence[str], group: str) -> None:
        """Raises KafkaError or TimeoutError where the server does not answer: nobody has been put out then."""
        self._due_at = asyncio.get_running_loop().time() + self._every_s
        me, silence = member_of(consumer), self._silence
        async with asyncio.timeout(_LOOK_S):
            found = await committed_offsets(consumer, partitions_of(consumer, topics))
            silent = silence.judged(me, (text for _, text in found.values()), asyncio.get_running_loop().time())
            working = await working_members(consumer) if silent else set[str]()
            for member in silent:
                if member in working:
                    _log.warning("group %r: member %r is silent; its partitions go to the others", group, member)
                    await put_out(consumer, member)
                silence.gone(member)


def longer_session(refused_s: float, group: str) -> float:
    """The next to ask for; the same again when no longer one will do."""
    longer_s = next((each for each in _SESSIONS_S if each > refused_s), refused_s)
    _log.log(
        logging.INFO if longer_s > refused_s else logging.WARNING,
        "Kafka refuses a session of %g s to group %r: see group.min.session.timeout.ms and group.max.session.timeout.ms; asking for %g s",
        refused_s,
        group,
        longer_s,
    )
    return longer_s


class Silence:
    """Who has to go, by what stands beside the offsets: pure."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._heard: dict[str, _Heard] = {}

    def gone(self, member: str) -> None:
        """What it left behind says nothing any more."""
        self._heard[member].is_gone = True

    def judged(self, me: str, texts: Iterable[str], now: float) -> list[str]:
        found: dict[str, int] = {}
        for text in texts:
            count, _, member = text.partition(" ")[2].partition(" ")
            if member and member != me and count.isdecimal():
                found[member] = max(found.get(member, 0), int(count))
        for member, number in found.items():
            heard = self._heard.setdefault(member, _Heard(number, now))
            if number == heard.count:
                heard.looks += 1
            else:
                self._heard[member] = _Heard(number, now)
        return [
            member
            for member, heard in self._heard.items()
            if not heard.is_gone and heard.looks >= _LOOKS and now - heard.at >= self.patience_s
        ]
