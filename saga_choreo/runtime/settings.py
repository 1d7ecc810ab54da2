"""Settings from the environment: `SAGA_*`, each also as `SAGA_*_FILE` for mounted secrets. An argument in code comes first.

Read from a mapping that the caller passes, so that nothing here depends on the process it runs in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from saga_choreo.errors import ConfigurationError
from saga_choreo.runtime.logs import LogFormat

Word = TypeVar("Word", bound=str)

__all__ = ["LOG_FORMATS", "LOG_LEVELS", "Settings", "read_settings"]

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS: tuple[LogFormat, ...] = ("auto", "json", "human")
# A mounted secret is a URL or a word; more is a mistake in the mount.
_FILE_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Empty means: not set. URLs may hold passwords, so they are left out of `repr`."""

    app: str = ""
    broker_url: str = field(default="", repr=False)
    store_url: str = field(default="", repr=False)
    log_level: str = "info"
    log_format: LogFormat = "auto"
    read_only: bool = False
    declare: bool = True


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Raises ConfigurationError on values that no setting can have and on secrets that cannot be read."""
    return Settings(
        app=_value(environ, "SAGA_APP"),
        broker_url=_value(environ, "SAGA_BROKER_URL"),
        store_url=_value(environ, "SAGA_STORE_URL"),
        log_level=_choice(environ, "SAGA_LOG_LEVEL", LOG_LEVELS, "info"),
        log_format=_choice(environ, "SAGA_LOG_FORMAT", LOG_FORMATS, "auto"),
        declare=_choice(environ, "SAGA_DECLARE", ("0", "1"), "1") == "1",
        read_only=_choice(environ, "SAGA_READ_ONLY", ("0", "1"), "0") == "1",
    )


def _value(environ: Mapping[str, str], name: str) -> str:
    direct, place = environ.get(name, ""), environ.get(f"{name}_FILE", "")
    if direct and place:
        raise ConfigurationError(f"both {name} and {name}_FILE are set; unset one of them")
    return _from_file(f"{name}_FILE", place) if place else direct


def _from_file(name: str, place: str) -> str:
    try:
        with Path(place).open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{name} names {place!r}, which cannot be read ({exc}); correct the path or the mount") from exc
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigurationError(f"{name} names {place!r}, which is longer than {_FILE_BYTES_MAX} bytes; is it the right file?")
    return text.strip()


def _choice(environ: Mapping[str, str], name: str, known: tuple[Word, ...], default: Word) -> Word:
    value = _value(environ, name).lower() or default
    for word in known:
        if word == value:
            return word
    raise ConfigurationError(f"{name} is {value!r}; set it to one of: {', '.join(known)}")
