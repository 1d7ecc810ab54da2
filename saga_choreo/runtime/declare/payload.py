"""Payloads: JSON bytes to pydantic models and back, by validators looked up once.

An error never shows a value of a payload: it names the event, the field and the kind of fault. pydantic's own text would
carry the value, so it is dropped from the chain of exceptions as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from saga_choreo.errors import DecodeError, ResultTooLarge
from saga_choreo.model.event import Event, EventRef, Upcast, older_of, upcasts_from

__all__ = ["PAYLOAD_BYTES_MAX", "Decoder", "decoder_of", "decoders_of", "encode", "fault_when_empty"]

M = TypeVar("M", bound=BaseModel)
Decoder = Callable[[bytes], M]

# The inline limit of the envelope: every broker we support carries it with its default settings.
PAYLOAD_BYTES_MAX = 64 * 1024
_FAULTS_SHOWN_MAX = 5


def decoder_of(model: type[M], what: str) -> Decoder[M]:
    """A function from JSON bytes to the model. `what` names the payload in errors, e.g. "event 'order.created' v1".

    Raises pydantic's error when the model itself cannot be built. The function raises DecodeError.
    """
    model.model_rebuild()
    validate: Callable[[bytes], M] = model.__pydantic_validator__.validate_json

    def decode(body: bytes) -> M:
        try:
            return validate(body)
        except ValidationError as exc:
            faults = _faults(model, exc)
        # Raised outside the handler, so that the original (which shows values) is not its context.
        raise DecodeError(
            "payload_invalid",
            f"the payload of {what} does not fit {model.__qualname__!r}: {faults}; "
            "publisher and reader disagree: give the changed event a new version, or make the field optional",
        )

    return decode


def decoders_of(event: type[Event], of: str = "") -> dict[EventRef, Decoder[Event]]:
    """One for each version that the class reads, its own first."""
    refs = (event.event, *older_of(event))
    return {ref: _upcasting(event, f"{of}event {ref.name!r} v{ref.version}", upcasts_from(event, ref.version)) for ref in refs}


def _upcasting(event: type[Event], what: str, upcasts: Sequence[Upcast]) -> Decoder[Event]:
    decode = decoder_of(event, what)
    if not upcasts:
        return decode

    def upcast(body: bytes) -> Event:
        fault = ""
        try:
            fields = json.loads(body)
            for one in upcasts:
                fields = one(fields)
            body = json.dumps(fields).encode()
        except Exception as exc:  # noqa: BLE001  the user's function; its words may show values, so only the kind is told
            fault = type(exc).__name__
        if fault:
            raise DecodeError(
                "payload_invalid",
                f"the payload of {what} could not be made one of {str(event.event)!r} ({fault}); correct the upcast of "
                f"{event.__qualname__!r}, which gets the fields and gives those of the next version",
            )
        return decode(body)

    return upcast


def _faults(model: type[BaseModel], exc: ValidationError) -> str:
    known: set[object] = set(model.model_fields)
    for field in model.model_fields.values():
        known |= {field.alias, field.validation_alias} - {None}  # type: ignore[arg-type,unused-ignore]
    found = exc.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{_field(known, fault['loc'])} ({fault['type']})" for fault in found[:_FAULTS_SHOWN_MAX]]
    more = f" and {len(found) - _FAULTS_SHOWN_MAX} more" if len(found) > _FAULTS_SHOWN_MAX else ""
    return ", ".join(shown) + more


def _field(known: set[object], location: tuple[int | str, ...]) -> str:
    # Deeper parts of a location can be keys of a mapping, which are data.
    if not location:
        return "the whole payload"
    return f"field {location[0]!r}" if location[0] in known else "a field"


def fault_when_empty(model: type[BaseModel], what: str) -> str:
    """Why an empty object is no payload of this model; '' when it is one."""
    try:
        decoder_of(model, what)(b"{}")
    except DecodeError as exc:
        return str(exc).partition(";")[0]
    return ""


def encode(model: BaseModel, what: str) -> bytes:
    """The model as JSON, under the names readers expect (aliases where it has them). Raises ResultTooLarge above 64 KiB."""
    body = model.__pydantic_serializer__.to_json(model, by_alias=True)
    if len(body) > PAYLOAD_BYTES_MAX:
        raise ResultTooLarge(
            f"the payload of {what} is {len(body)} bytes and the limit is {PAYLOAD_BYTES_MAX}; "
            "store the large part yourself and publish a reference to it"
        )
    return body
