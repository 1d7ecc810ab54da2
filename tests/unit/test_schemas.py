"""The files in schemas/ say what the code does: never stale, and their samples are messages the codec takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from saga_choreo.codec.schemas import files, samples
from saga_choreo.codec.wire import decode, encode
from saga_choreo.errors import DecodeError
from saga_choreo.model.envelope import Channel, MessageKind

FOLDER = Path(__file__).parents[2] / "schemas"
HEADERS = json.loads((FOLDER / "headers.schema.json").read_text())
NAMES = sorted(samples())


def validator(name: str) -> Draft202012Validator:
    registry: Registry[Any] = Registry().with_resource("headers.schema.json", Resource.from_contents(HEADERS))
    return Draft202012Validator(json.loads((FOLDER / f"{name}.schema.json").read_text()), registry=registry)


def sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "samples" / f"{name}.json").read_text())
    return found


def test_the_files_are_what_the_code_says_now() -> None:
    written = {path.relative_to(FOLDER).as_posix(): path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.json")}
    assert written == files(), "run: python schemas/generate.py"


def test_every_kind_of_message_has_a_sample() -> None:
    assert {envelope.kind for envelope in samples().values()} == set(MessageKind)


@pytest.mark.parametrize("path", sorted(path.name for path in FOLDER.glob("*.schema.json")))
def test_each_schema_is_a_valid_schema(path: str) -> None:
    Draft202012Validator.check_schema(json.loads((FOLDER / path).read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_fits_its_schema_and_no_other(name: str) -> None:
    fitting = [other for other in NAMES if validator(other).is_valid(sample(name))]
    assert fitting == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_read_from_its_file_goes_through_the_codec_unchanged(name: str) -> None:
    found = sample(name)
    body = b"" if found["body"] is None else json.dumps(found["body"], separators=(",", ":")).encode()
    envelope = decode(samples()[name].channel, found["headers"], body)
    assert envelope == samples()[name]
    assert encode(envelope) == (found["headers"], body)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_header_that_the_schema_requires_it_is_not_this_message(name: str) -> None:
    checked, found, channel = validator(name), sample(name), samples()[name].channel
    body = encode(samples()[name])[1]
    for header in found["headers"]:
        fewer = {key: value for key, value in found["headers"].items() if key != header}
        if checked.is_valid({"headers": fewer, "body": found["body"]}):
            assert decode(channel, fewer, body).kind is samples()[name].kind
        else:
            assert kind_of(channel, fewer, body) is not samples()[name].kind


def kind_of(channel: Channel, headers: dict[str, str], body: bytes) -> MessageKind | None:
    try:
        return decode(channel, headers, body).kind
    except DecodeError:
        return None
