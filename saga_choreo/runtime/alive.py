"""Which services are there: every agent says so now and then on the `defs` channel, where the last word of each service is kept.

People are told of it (`sagas stuck`), and an agent that is not alone tells the others sooner what it has published. Nothing else is
decided by it, so a word that is late or lost does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from saga_choreo.ports.broker import Notice

__all__ = ["WORD", "Sign", "alive_notice", "is_there", "life_of", "read_alive"]

WORD = "alive"
# In times of what the agent itself says it speaks after: one word may get lost, and another be late.
_SILENT_AFTER = 3.5
_EVERY_MAX_MS = 86_400_000


class Sign(NamedTuple):
    """When an agent of a service was there, and how often it says so."""

    at_ms: int
    every_ms: int = 10_000


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


def is_there(sign: Sign, now_ms: int) -> bool:
    return now_ms - sign.at_ms <= _SILENT_AFTER * sign.every_ms


def life_of(service: str, heard: Mapping[str, Sign] | None, now_ms: int) -> str:
    """What is known of a service's agents, in words; `heard` is None where nobody has listened."""
    if heard is None:
        return "whether an agent of it runs is not known here"
    sign = heard.get(service)
    if sign is None:
        return "no live agent: none was ever heard of"
    if is_there(sign, now_ms):
        return ""
    return f"no live agent: the last one was heard {_long((now_ms - sign.at_ms) // 1000)} ago"


def _long(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
