"""Log lines for machines and for people, with the standard library's logging only.

A library does not configure logging: everything here is used by the CLI, or by an application that asks for it. The ids of
a saga travel with the record as attributes (`bound`), so that both formats, and anybody's own formatter, find them.
Payloads never go into logs; what callers pass is bounded.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson

from saga_choreo import __version__

__all__ = ["HumanLines", "JsonLines", "LogFormat", "bound", "configure"]

LogFormat = Literal["auto", "json", "human"]

# Longer than any message of ours; an exception's text may come from anywhere.
TEXT_MAX = 8_192
_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Clients that tell at level INFO of each of their own steps, and nothing that an operator could act on.
_TALKATIVE = ("aiokafka",)
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def bound(logger: logging.Logger, **ids: object) -> logging.LoggerAdapter[logging.Logger]:
    """A logger that says with every line which saga, step or event it is about: `bound(log, saga_id=..., step_id=...)`."""
    return _Bound(logger, {name: value for name, value in ids.items() if value is not None})


class _Bound(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        # The standard adapter would drop what the single call passes as `extra`.
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class JsonLines(logging.Formatter):
    """One JSON object per line; its shape is `schemas/log-line.schema.json`. Never raises on what a caller logs."""

    def __init__(self, service: str = "") -> None:
        super().__init__()
        self._metadata: Mapping[str, str] = {"service": service, "version": __version__}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": _time(record).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "saga_id": _id(record, "saga_id"),
            "step_id": _id(record, "step_id"),
            "event": _id(record, "event"),
            "duration_ms": _duration_ms(record),
            "metadata": self._metadata,
        }
        error = _error(self, record)
        if error:
            line["error"] = error
        return orjson.dumps(line).decode()


class HumanLines(logging.Formatter):
    """One short line for a terminal; a traceback, if any, below it."""

    def __init__(self, service: str = "", *, colour: bool = False) -> None:
        super().__init__()
        self._service = service
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname:<8}"
        if self._colour and record.levelname in _COLOURS:
            level = f"\x1b[{_COLOURS[record.levelname]}m{level}\x1b[0m"
        saga, step = _id(record, "saga_id"), _id(record, "step_id")
        duration = _duration_ms(record)
        parts = [
            _time(record).astimezone().strftime("%H:%M:%S.%f")[:12],
            level,
            self._service,
            # The end of a UUIDv7 is its random part: sagas started together differ there.
            saga[-8:] if saga else "",
            step or "",
            _message(record),
            f"({duration:.1f} ms)" if duration is not None else "",
        ]
        line = " ".join(part for part in parts if part)
        error = _error(self, record)
        return f"{line}\n{error}" if error else line


def configure(
    format: LogFormat = "auto",  # noqa: A002  (the name of the option it serves)
    level: str = "INFO",
    service: str = "",
    stream: TextIO | None = None,
) -> None:
    """Send all logging of this process to the stream (stderr). `auto` is for people on a terminal and JSON elsewhere.

    Raises ValueError on an unknown level. For the CLI; a library's user configures logging as usual.
    """
    target = stream if stream is not None else sys.stderr
    terminal = target.isatty()
    human = format == "human" or (format == "auto" and terminal)
    handler = logging.StreamHandler(target)
    handler.setFormatter(HumanLines(service, colour=terminal and not os.environ.get("NO_COLOR")) if human else JsonLines(service))
    root = logging.getLogger()
    root.setLevel(level.upper())
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.NOTSET if root.level <= logging.DEBUG else max(root.level, logging.WARNING))


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _id(record: logging.LogRecord, name: str) -> str | None:
    value = getattr(record, name, None)
    return None if value is None else _text(value)


def _duration_ms(record: logging.LogRecord) -> float | None:
    value = getattr(record, "duration_ms", None)
    return round(float(value), 3) if isinstance(value, int | float) and abs(value) < 1e15 else None


def _message(record: logging.LogRecord) -> str:
    try:
        return _text(record.getMessage())
    except (TypeError, ValueError):
        return _text(f"{record.msg} {record.args!r}")


def _error(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts: list[str] = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    text = "\n".join(parts)
    # The end of a traceback says what happened.
    return _clean(text[-TEXT_MAX:])


def _text(value: object) -> str:
    text = str(value)
    return _clean(text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…").replace("\n", "\\n")


def _clean(text: str) -> str:
    """No half surrogates, which cannot be written as UTF-8; nothing that steers a terminal or breaks a line but '\\n' and tab."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
