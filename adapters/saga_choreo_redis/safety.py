"""What the server must be set to, read back from it: a confirmed commit is on its disk, and nothing is thrown away to make room.

A server that does not let itself be asked (CONFIG is often closed where somebody else runs it) is not known to be safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saga_choreo.errors import ConfigurationError, DurabilityRefused, StoreUnavailable
from saga_choreo_redis.link import Link

__all__ = ["check_server", "settings_of", "unsafe_of"]

_SAFE = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
_EVICTION = "maxmemory-policy"
# ZMSCORE and the like; also where scripts' effects are all that is kept.
_OLDEST = (6, 2)


async def settings_of(link: Link) -> dict[str, str]:
    """The settings that matter as the server has them; those it does not tell are missing."""
    found: dict[str, str] = {}
    for name in (*_SAFE, _EVICTION):
        try:
            answer = _pairs(await link.read("CONFIG", "GET", name))
        except (StoreUnavailable, ConfigurationError) as error:
            if "CONFIG" not in str(error).upper():
                raise
            return found
        found.update(answer)
    return found


def unsafe_of(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: settings.get(name, "not told") for name, safe in _SAFE.items() if settings.get(name) != safe}


async def check_server(link: Link, where: str, *, durable: bool) -> None:
    """Raises ConfigurationError, DurabilityRefused (unless not `durable`), StoreUnavailable for a replica."""
    about = _lines(await link.read("INFO"))
    version = about.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < _OLDEST:
        raise ConfigurationError(f"Redis at {where!r} is too old ({version}); 6.2 or newer is needed")
    if about.get("cluster_enabled") == "1":
        raise ConfigurationError(
            f"Redis at {where!r} runs as a cluster, which this store does not follow; use a server (or a primary with replicas) of its own"
        )
    if about.get("role", "master") != "master":
        raise StoreUnavailable(f"Redis at {where!r} is a replica and takes no writes; use the primary's address")
    found = await settings_of(link)
    if found.get(_EVICTION, "noeviction") != "noeviction":
        raise DurabilityRefused(
            f"Redis at {where!r} may throw keys away when memory is short ({_EVICTION} is {found[_EVICTION]!r}); "
            f"set {_EVICTION} noeviction"
        )
    if not durable:
        return
    unsafe = unsafe_of(found)
    if unsafe:
        raise DurabilityRefused(
            f"Redis at {where!r} runs with {unsafe}: a crash could undo what it has confirmed; set {_SAFE}, "
            "or write ?durability=relaxed in the store's URL where that does not matter"
        )


def _pairs(answer: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in zip(answer[::2], answer[1::2], strict=True)}


def _lines(answer: bytes) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}
