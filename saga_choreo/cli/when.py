"""Times and durations as people and programs read them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["ago", "rfc3339", "shown"]

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def rfc3339(unix_ms: int) -> str:
    """UTC with milliseconds, such as 2026-11-23T01:40:00.123Z."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(unix_ms: int, now_ms: int) -> str:
    """'3m ago', 'in 2h', 'now': the largest whole unit."""
    seconds = abs(now_ms - unix_ms) // 1000
    for size, unit in _UNITS:
        if seconds >= size:
            amount = f"{seconds // size}{unit}"
            return f"{amount} ago" if unix_ms < now_ms else f"in {amount}"
    return "now"


def shown(unix_ms: int, style: str, now_ms: int) -> str:
    match style:
        case "relative":
            return ago(unix_ms, now_ms)
        case "local":
            return datetime.fromtimestamp(unix_ms / 1000, UTC).astimezone().isoformat(sep=" ", timespec="seconds")
        case _:
            return rfc3339(unix_ms)
