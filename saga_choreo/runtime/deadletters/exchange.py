"""Dead letters as JSON, out of a store and into one.

What goes out is complete: address, headers and body, byte by byte. What comes in is checked first, all of it; a letter that is
there already is not added again. Parked steps go out for reading only: they are records of their saga and belong where they are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from saga_choreo.ports.store import Quarantined
from saga_choreo.runtime.deadletters.letter import DeadLetter, LetterKind
from saga_choreo.runtime.stored import channel_from

__all__ = ["SCHEMA", "exported", "imported"]

SCHEMA = "saga-choreo/v1/dead-letter"
_BODY_BYTES_MAX = 16 * 1024 * 1024


def exported(letter: DeadLetter) -> dict[str, Any]:
    """JSON-ready. Times are RFC 3339; a body that is no UTF-8 is base64."""
    row: dict[str, Any] = {
        "schema": SCHEMA,
        "id": letter.id,
        "kind": letter.kind.value,
        "service": letter.service,
        "state": letter.state,
        "code": letter.code,
        "detail": letter.detail,
        "group": letter.group,
        "saga": letter.saga_id,
        "key": letter.key,
        "choreography": letter.choreography,
        "definition": letter.definition,
        "step": letter.step,
        "attempts": letter.attempts,
        "first_failed": _time(letter.first_ms),
        "last_failed": _time(letter.last_ms),
        "agent": letter.agent,
        "version": letter.version,
        "operator": letter.operator,
        "note": letter.note,
        "channel": letter.channel,
    }
    if letter.kind is LetterKind.STEP:
        inputs = [{"event": one.event, "from": one.from_step, **_text(one.payload)} for one in letter.inputs]
        return row | {"stack": letter.stack.splitlines(), "inputs": inputs}
    return row | {"headers": dict(letter.headers), **_text(letter.body)}


def imported(row: object) -> Quarantined:
    """The quarantined message that a row describes. Raises ValueError, which says what is wrong with it."""
    if not isinstance(row, Mapping):
        raise ValueError("a dead letter is a JSON object")
    found = cast("Mapping[str, Any]", row)
    if found.get("kind") != LetterKind.MESSAGE:
        raise ValueError(
            f"its kind is {found.get('kind')!r}; only messages can be brought into a store, a parked step belongs to its saga"
        )
    texts: dict[str, Any] = {name: _string(found, name) for name in ("service", "code", "detail", "channel")}
    channel_from(texts["channel"])
    headers = found.get("headers")
    pairs = cast("Mapping[object, object]", headers) if isinstance(headers, Mapping) else None
    if pairs is None or not all(isinstance(name, str) and isinstance(value, str) for name, value in pairs.items()):
        raise ValueError("'headers' is no object of strings")
    if not texts["service"] or not texts["code"]:
        raise ValueError("'service' and 'code' must not be empty")
    return Quarantined(
        **texts,
        headers=cast("Mapping[str, str]", pairs),
        body=_body(found),
        received_ms=_ms(_string(found, "first_failed")),
        saga_id=str(found.get("saga") or ""),
        agent=str(found.get("agent") or ""),
        version=str(found.get("version") or ""),
    )


def _string(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is missing, or no string")
    return value


def _body(row: Mapping[str, Any]) -> bytes:
    text = _string(row, "body")
    match row.get("encoding"):
        case "utf-8":
            body = text.encode("utf-8", "surrogatepass")
        case "base64":
            try:
                body = base64.b64decode(text, validate=True)
            except binascii.Error as error:
                raise ValueError(f"'body' is no base64: {error}") from error
        case other:
            raise ValueError(f"'encoding' is {other!r}; it is utf-8 or base64")
    if len(body) > _BODY_BYTES_MAX:
        raise ValueError(f"'body' has {len(body)} bytes, more than {_BODY_BYTES_MAX}")
    return body


def _text(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode("utf-8"), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode("ascii"), "encoding": "base64"}


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"'first_failed' is no time: {error}") from error
    if moment.tzinfo is None:
        raise ValueError("'first_failed' has no time zone; write it as 2026-11-23T01:40:00.123Z")
    return round(moment.timestamp() * 1000)
