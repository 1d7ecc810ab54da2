"""A choreography as an AsyncAPI 3.0 document: a channel per event, an operation per participant and event, payloads from pydantic.

What agents say among themselves (control, definitions, dead letters) is left out: it is described in `schemas/`, and no application
reads or writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from saga_choreo import __version__
from saga_choreo.codec.schemas import files
from saga_choreo.model.choreography import Choreography
from saga_choreo.model.event import Event, EventRef
from saga_choreo.ports import Channel, ChannelKind

__all__ = ["document"]

_HEADERS = "saga-headers"
Json = dict[str, Any]


def document(form: Choreography, prefix: str = "saga") -> Json:
    """The payload of an event is described where its class is imported; of another it is only known to be an object."""
    classes = dict(_classes(Event))
    said = list(_said(form))
    refs = sorted({ref for _, _, ref in said})
    schemas: Json = {_HEADERS: _headers()}
    messages = {_key(ref): _message(ref, classes.get(ref), schemas) for ref in refs}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": form.name,
            "version": str(form.version),
            "description": f"Choreography {form.name!r}, definition {form.definition}; written by saga-choreo {__version__}.",
        },
        "defaultContentType": "application/json",
        "channels": _channels(refs, prefix),
        "operations": {f"{service}.{action}.{_key(ref)}": _operation(service, action, ref) for service, action, ref in said},
        "components": {"messages": messages, "schemas": schemas},
    }


def _key(ref: EventRef) -> str:
    return f"{ref.name}.v{ref.version}"


def _said(form: Choreography) -> Iterator[tuple[str, str, EventRef]]:
    """Who sends and who receives what. Who starts the sagas is not part of a definition: it is called the origin."""
    found: dict[tuple[str, str, EventRef], None] = {}
    if form.start is not None:
        found["origin", "send", form.start] = None
    for step in form.steps:
        for ref in step.reads:
            found[step.owner, "receive", ref] = None
        more = [ref for ref in (step.undo_event, step.deadline_event) if ref is not None]
        for ref in (*step.publishes, *more):
            found[step.owner, "send", ref] = None
    yield from found


def _classes(parent: type[Event]) -> Iterator[tuple[EventRef, type[Event]]]:
    for kind in parent.__subclasses__():
        if hasattr(kind, "event"):
            yield kind.event, kind
        yield from _classes(kind)


def _channels(refs: list[EventRef], prefix: str) -> Json:
    channels: Json = {}
    for ref in refs:
        channel = channels.setdefault(
            ref.name, {"address": f"{prefix}.{Channel(ChannelKind.EVENT, ref.name)}", "title": ref.name, "messages": {}}
        )
        channel["messages"][_key(ref)] = {"$ref": f"#/components/messages/{_key(ref)}"}
    return channels


def _operation(service: str, action: str, ref: EventRef) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{ref.name}"},
        "messages": [{"$ref": f"#/channels/{ref.name}/messages/{_key(ref)}"}],
        "tags": [{"name": service}],
    }


def _message(ref: EventRef, kind: type[Event] | None, schemas: Json) -> Json:
    payload: Json = {"type": "object"}
    if kind is not None:
        # Each event's own parts get names of their own: two events may each have a part called Address.
        payload = kind.model_json_schema(mode="serialization", ref_template=f"#/components/schemas/{_key(ref)}.{{model}}")
        for name, part in payload.pop("$defs", {}).items():
            schemas[f"{_key(ref)}.{name}"] = part
    return {
        "name": ref.name,
        "title": f"{ref.name}, version {ref.version}",
        "contentType": "application/json",
        "headers": {"$ref": f"#/components/schemas/{_HEADERS}"},
        "payload": payload,
    }


def _headers() -> Json:
    """The one that `schemas/` has, without the name of its dialect: AsyncAPI has its own."""
    schema: Json = orjson.loads(files()["headers.schema.json"])
    schema.pop("$schema")
    return schema
