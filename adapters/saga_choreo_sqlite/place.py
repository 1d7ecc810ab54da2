"""Where the database is: `sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite://:memory:`, as SQLAlchemy writes them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from saga_choreo.errors import ConfigurationError

__all__ = ["DURABILITIES", "Place", "place_of"]

DURABILITIES = ("full", "relaxed")
_SCHEME = "sqlite://"
_MEMORY = ":memory:"


@dataclass(frozen=True, slots=True)
class Place:
    """A file, or a private database in memory (`path` is ':memory:'). `durability` is what the URL asked for, or empty."""

    path: str
    durability: str = ""

    @property
    def in_memory(self) -> bool:
        return self.path == _MEMORY


def place_of(url: str) -> Place:
    """Raises ConfigurationError when the URL is not one of the forms above, or has an option that is not known."""
    if not url.startswith(_SCHEME):
        raise ConfigurationError(
            f"the store URL {url!r} is not an SQLite URL; write sqlite:///file.db or sqlite:////absolute/file.db"
        )
    where, _, query = url.removeprefix(_SCHEME).partition("?")
    durability = _durability(url, query)
    if where in ("", "/", _MEMORY, "/" + _MEMORY):
        return Place(_MEMORY, durability)
    if not where.startswith("/"):
        raise ConfigurationError(
            f"the store URL {url!r} names a host; a file needs three slashes (sqlite:///{where}) or four for an absolute path"
        )
    return Place(unquote(where[1:]), durability)


def _durability(url: str, query: str) -> str:
    options = dict(parse_qsl(query, keep_blank_values=True))
    durability = options.pop("durability", "")
    if options:
        raise ConfigurationError(
            f"the store URL {url!r} has unknown options {sorted(options)}; the only one is durability=full|relaxed"
        )
    if durability and durability not in DURABILITIES:
        raise ConfigurationError(
            f"the store URL {url!r} asks for durability {durability!r}; choose one of {', '.join(DURABILITIES)}"
        )
    return durability
