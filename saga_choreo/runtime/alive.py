"""Which services are there: every agent says so now and then on the `defs` channel, where the last word of each service is kept.

People are told of it (`sagas stuck`), an agent that is not alone tells the others sooner what it has published, and the agents of a
service are served in an order that comes of it (`sharing`). Nothing else is decided by it, so a word that is late or lost does no harm.

Clocks of machines differ, by hours if it goes badly. So whoever listens goes by its own clock and by when it has heard a sign. Only the
first one of a service may be one that the broker has kept: its age is known by the clock of its agent only, until the next one comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from saga_choreo.ports.broker import Notice
from saga_choreo.ports.clock import Clock

__all__ = ["WORD", "Sign", "Signs", "alive_notice", "is_there", "life_of", "read_alive"]

WORD = "alive"
# In times of what the agent itself says it speaks after: one word may get lost, and another be late.
_SILENT_AFTER = 3.5
_EVERY_MAX_MS = 86_400_000
# The longest time between two signs, as agents space them, and some time to come.
_NEXT_AFTER, _NEXT_LATE_S = 1.25, 0.5
# A sign that is further off than this was not misdated: agents do not work together with clocks that differ by more (`clock_bound_s`).
_MISDATED_MAX_MS = 7_200_000
# Other agents of a service that are counted: those heard of last.
_COMPANY_MAX = 64


class Sign(NamedTuple):
    """When an agent of a service was there, and how often it says so. `is_kept`: that is only known by its own clock, which was
    `ahead_ms` ahead."""

    at_ms: int
    every_ms: int = 10_000
    is_kept: bool = False
    ahead_ms: int = 0


def alive_notice(service: str, agent: str, sign: Sign) -> Notice:
    body = {"service": service, "agent": agent, "at_ms": sign.at_ms, "every_ms": sign.every_ms}
    return Notice(f"{WORD}.{service}", orjson.dumps(body))


def read_alive(notice: Notice) -> tuple[str, str, Sign]:
    """The service, which of its agents, and the sign of life. Raises ValueError, KeyError or TypeError on what no agent has written."""
    said: Any = orjson.loads(notice.body)
    at_ms, every_ms = said["at_ms"], said["every_ms"]
    if type(at_ms) is not int or type(every_ms) is not int or not 0 < every_ms <= _EVERY_MAX_MS:
        raise ValueError(f"a sign of life has the times {at_ms!r} and {every_ms!r}; they are milliseconds")
    return str(said["service"]), str(said["agent"]), Sign(at_ms, every_ms)


class _Heard(NamedTuple):
    """`at_s` is a monotonic time of whoever listens; `age_ms` is how old the sign was then, negative when it came from the future."""

    at_s: float
    age_ms: int
    every_ms: int
    is_kept: bool


class Signs:
    """What one process has heard of other agents; `service` is its own."""

    def __init__(self, service: str, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        # Service -> its last sign as written: a broker may show it again.
        self._last: dict[str, tuple[str, int]] = {}
        self._heard: dict[str, _Heard] = {}
        self._company: dict[str, _Heard] = {}

    def hear(self, service: str, agent: str, sign: Sign, me: str = "") -> bool:
        """`me` is this agent itself, which is no company. Returns whether this is of company that was not known, as long
        as all there is can be counted: of more than that, somebody would be new for ever."""
        last, self._last[service] = self._last.get(service), (agent, sign.at_ms)
        if last == self._last[service]:
            return False
        is_kept = last is None
        age_ms = self._clock.time_ns() // 1_000_000 - sign.at_ms if is_kept else 0
        heard = self._heard[service] = _Heard(self._clock.monotonic(), age_ms, sign.every_ms, is_kept)
        if service != self._service or agent == me:
            return False
        is_new = self._company.pop(agent, None) is None
        self._company[agent] = heard
        if len(self._company) > _COMPANY_MAX:
            del self._company[next(iter(self._company))]
            return False
        return is_new

    def heard(self) -> dict[str, Sign]:
        """The last sign of each service, in times of the clock here."""
        return {service: self._sign(one) for service, one in self._heard.items()}

    def company(self) -> int:
        """How many other agents of the service were there lately."""
        for agent in [agent for agent, one in self._company.items() if _is_silent(self._sign(one), self._now_ms())]:
            del self._company[agent]
        return len(self._company)

    def place(self, me: str) -> tuple[int, int]:
        """Which of its service's agents this one is, in an order that all of them know, from 0; and how many they are."""
        agents = 1 + self.company()
        return sum(agent < me for agent in self._company), agents

    def doubt_s(self) -> float:
        """For how long it is worth listening on: until then each of those whose clock may be wrong has given another sign."""
        left_s = [
            _NEXT_AFTER * one.every_ms / 1000 + _NEXT_LATE_S - (self._clock.monotonic() - one.at_s)
            for one in self._heard.values()
            if one.is_kept and abs(one.age_ms) <= _MISDATED_MAX_MS and not is_there(self._sign(one), self._now_ms())
        ]
        return max(left_s, default=0.0)

    def _sign(self, one: _Heard) -> Sign:
        since_ms = int(1000 * (self._clock.monotonic() - one.at_s))
        at_ms = self._now_ms() - since_ms - max(one.age_ms, 0)
        return Sign(at_ms, one.every_ms, one.is_kept, max(-one.age_ms, 0))

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def is_there(sign: Sign, now_ms: int) -> bool:
    return not _is_silent(sign, now_ms) and not _is_misdated(sign)


def _is_silent(sign: Sign, now_ms: int) -> bool:
    return now_ms - sign.at_ms > _SILENT_AFTER * sign.every_ms


def _is_misdated(sign: Sign) -> bool:
    return sign.ahead_ms > _SILENT_AFTER * sign.every_ms


def life_of(service: str, heard: Mapping[str, Sign] | None, now_ms: int) -> str:
    """What is known of a service's agents, in words; `heard` is None where nobody has listened."""
    if heard is None:
        return "whether an agent of it runs is not known here"
    sign = heard.get(service)
    if sign is None:
        return "no live agent: none was ever heard of"
    if is_there(sign, now_ms):
        return ""
    ago = _long((now_ms - sign.at_ms) // 1000)
    if not sign.is_kept:
        return f"no live agent: the last one was heard {ago} ago"
    if not _is_misdated(sign):
        return f"no live agent: the last sign of one is {ago} old by its own clock"
    ahead = _long(sign.ahead_ms // 1000)
    if _is_silent(sign, now_ms):
        return f"no live agent: the last sign of one, by a clock that was {ahead} ahead of this one, is not followed by another"
    return f"whether an agent of it runs is not known: the last sign of one is {ahead} ahead of the clock here, none came in {ago}"


def _long(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
