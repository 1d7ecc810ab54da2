"""Where the database is: a libpq URL, `postgresql://user:password@host:port/database?option=value`, with three options of ours.

What is left of the options goes to the driver: `sslmode` and the like are known to it, and anything else becomes a setting of the
session, such as `search_path`, the schema that holds the saga tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from saga_choreo.errors import ConfigurationError

__all__ = ["DURABILITIES", "POOL_MAX", "Place", "place_of"]

DURABILITIES = ("full", "relaxed")
SCHEMES = ("postgresql", "postgres")
# Four writers, and room for reads, scans and marks beside them.
POOL_MAX = 10
_POOL_FROM, _POOL_TO = 2, 200


@dataclass(frozen=True, slots=True)
class Place:
    """`dsn` is for the driver and holds the password; `shown` is fit for messages. `statement_cache`: 0 behind a pooler that
    gives each transaction another connection."""

    dsn: str = field(repr=False)
    shown: str
    durability: str = "full"
    pool_max: int = POOL_MAX
    statement_cache: int = 256


def place_of(url: str) -> Place:
    """Raises ConfigurationError when the URL is none of PostgreSQL, or an option of ours is wrong."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in SCHEMES:
        raise ConfigurationError(f"the store URL {shown!r} is not a PostgreSQL URL; write postgresql://user@host:5432/database")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    durability = options.pop("durability", "full")
    if durability not in DURABILITIES:
        raise ConfigurationError(f"the store URL {shown!r} asks for durability {durability!r}; choose one of {DURABILITIES}")
    pool_max = _number(shown, "pool_max", options.pop("pool_max", str(POOL_MAX)), _POOL_FROM, _POOL_TO)
    cache = _number(shown, "statement_cache", options.pop("statement_cache", "256"), 0, 10_000)
    dsn = urlunsplit(parts._replace(query=urlencode(options)))
    return Place(dsn, shown, durability, pool_max, cache)


def _number(shown: str, name: str, text: str, least: int, most: int) -> int:
    if text.isdecimal() and least <= int(text) <= most:
        return int(text)
    raise ConfigurationError(f"the store URL {shown!r} has {name}={text!r}; write a number from {least} to {most}")
