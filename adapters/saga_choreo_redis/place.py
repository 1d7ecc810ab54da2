"""Where the server is: `redis://user:password@host:port/0`, `rediss://...` (TLS) or `redis+unix:///path/to.sock?db=0`.

Three options are ours: `prefix` (what all keys begin with), `durability` and `pool_max`. Those that begin with `ssl_` go to the client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from saga_choreo.errors import ConfigurationError

__all__ = ["DURABILITIES", "Place", "place_of"]

DURABILITIES = ("full", "relaxed")
_SCHEMES = {"redis": "redis", "rediss": "rediss", "redis+unix": "unix"}
# Writers, and room for reads, scans and marks beside them.
_POOL_MAX = 16
_POOL_FROM, _POOL_TO = 2, 200
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Place:
    """`url` is for the client and holds the password; `shown` is fit for messages."""

    url: str = field(repr=False)
    shown: str
    prefix: str
    durability: str = "full"
    pool_max: int = _POOL_MAX


def place_of(url: str) -> Place:
    """Raises ConfigurationError when the URL is none of Redis, or an option is wrong."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(f"the store URL {shown!r} is not a Redis URL; write redis://host:6379/0")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    durability, prefix = options.pop("durability", "full"), options.pop("prefix", "saga")
    if durability not in DURABILITIES:
        raise ConfigurationError(f"the store URL {shown!r} asks for durability {durability!r}; choose one of {DURABILITIES}")
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            f"the store URL {shown!r} has the prefix {prefix!r}; use 1 to 64 letters, digits, '_', '.' and '-'"
        )
    pool_max = options.pop("pool_max", str(_POOL_MAX))
    if not pool_max.isdecimal() or not _POOL_FROM <= int(pool_max) <= _POOL_TO:
        raise ConfigurationError(f"the store URL {shown!r} has pool_max={pool_max!r}; give {_POOL_FROM} to {_POOL_TO}")
    unknown = sorted(name for name in options if name != "db" and not name.startswith("ssl_"))
    if unknown:
        raise ConfigurationError(
            f"the store URL {shown!r} has unknown options {unknown}; known are durability, prefix, pool_max, db and ssl_..."
        )
    client = urlunsplit(parts._replace(scheme=_SCHEMES[parts.scheme], query=urlencode(options)))
    return Place(client, shown, prefix, durability, int(pool_max))
