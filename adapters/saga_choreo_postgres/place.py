"""Where the database is: a libpq URL, `postgresql://user:password@host:port/database?option=value`, with three options of ours.

What is left of the options goes to the driver: `sslmode` and the like are known to it, and anything else becomes a setting of the
session, such as `search_path`, the schema that holds the saga tables. Settings that we choose can be chosen otherwise there.
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
_SETTINGS = {
    "application_name": "saga_choreo",
    # Waiting for a row of another transaction: longer than a healthy one holds it (250 ms, or a step's time-out in the slow lane).
    "lock_timeout": "10000",
    # An agent whose machine is frozen must not hold rows for ever; longer than a step may stand still in its transaction.
    "idle_in_transaction_session_timeout": "600000",
    # Plans are made once for a connection. Made while the tables were small, they would scan them from end to end, and go on
    # doing so while the tables grow, until the server counts them again (measured: all claims, from 40 rows on).
    "enable_seqscan": "off",
    "jit": "off",
    # What the toolkit relies on, whatever the database's own default is: a second look sees what others have committed meanwhile.
    "default_transaction_isolation": "read committed",
}


@dataclass(frozen=True, slots=True)
class Place:
    """`dsn` is for the driver and holds the password; `shown` is fit for messages. `statement_cache`: 0 behind a pooler that
    gives each transaction another connection."""

    dsn: str = field(repr=False)
    shown: str
    settings: dict[str, str]
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
    settings = {name: options.pop(name, value) for name, value in _SETTINGS.items()}
    dsn = urlunsplit(parts._replace(query=urlencode(options)))
    return Place(dsn, shown, settings, durability, pool_max, cache)


def _number(shown: str, name: str, text: str, least: int, most: int) -> int:
    if text.isdecimal() and least <= int(text) <= most:
        return int(text)
    raise ConfigurationError(f"the store URL {shown!r} has {name}={text!r}; write a number from {least} to {most}")
