"""`saga-choreo asyncapi export` writes what the official schema of AsyncAPI 3.0 accepts, and what the choreography says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from process import in_process, saga_choreo

from saga_choreo import Choreography, ChoreographyStep, Event
from saga_choreo.cli.asyncapi_document import document

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((Path(__file__).parent / "asyncapi" / "3.0.0.json").read_text())


def _faults(found: dict[str, Any]) -> list[str]:
    return [f"{list(error.absolute_path)}: {error.message:.300}" for error in Draft7Validator(SCHEMA).iter_errors(found)]


@pytest.mark.parametrize("app", ["examples.order_processing.choreography", "examples.order_processing.payment:agent"])
def test_the_example_exports_a_document_that_the_official_schema_accepts(app: str) -> None:
    # A process of its own: here, other tests have events of the same names.
    done = saga_choreo("asyncapi", "export", "--prefix", "shop", app, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert _faults(found) == []
    assert found["channels"]["order.created"]["address"] == "shop.event.order.created"
    operations = found["operations"]
    assert operations["origin.send.order.created.v1"]["action"] == "send"
    assert operations["payment.receive.order.created.v1"]["action"] == "receive"
    payload = found["components"]["messages"]["order.created.v1"]["payload"]
    assert payload["properties"]["amount_cents"]["type"] == "integer"


def test_the_official_schema_refuses_a_document_with_a_fault() -> None:
    done = in_process("asyncapi", "export", "examples.order_processing.choreography")
    found = json.loads(done.stdout)
    found["operations"]["origin.send.order.created.v1"]["action"] = "shout"
    assert _faults(found) != []


class Part(Event, name="asyncapi.part"):
    class Address(Event, name="asyncapi.address"):
        street: str

    to: Address


class Other(Event, name="asyncapi.other"):
    class Address(Event, name="asyncapi.address"):
        city: str

    to: Address


def test_parts_of_one_name_in_two_events_stay_apart_and_every_reference_leads_somewhere() -> None:
    move = ChoreographyStep("move").on_event(Part).publish_event(Other, "asyncapi.unknown").owned_by("mover")
    found = document(Choreography("parts").starts_with(Part).step(move))
    assert _faults(found) == []
    schemas = found["components"]["schemas"]
    assert set(schemas["asyncapi.part.v1.Address"]["properties"]) == {"street"}
    assert set(schemas["asyncapi.other.v1.Address"]["properties"]) == {"city"}
    assert found["components"]["messages"]["asyncapi.unknown.v1"]["payload"] == {"type": "object"}
    for reference in _references(found):
        place: Any = found
        for word in reference.removeprefix("#/").split("/"):
            place = place[word]


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [one for part in value.values() for one in _references(part)]
    return [one for part in value for one in _references(part)] if isinstance(value, list) else []


def test_what_is_not_there_or_not_named_is_an_error_of_configuration() -> None:
    for words in (("no.such.module",), ()):
        assert in_process("asyncapi", "export", *words).returncode == 3
