"""Log lines: one object or one line each, with the ids, and never a payload."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_choreo import __version__
from saga_choreo.runtime.logs import TEXT_MAX, HumanLines, JsonLines, bound, configure

SAGA = "01a0c450-6c00-7839-8313-233343536373"
SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "log-line.schema.json").read_text())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def line_of(**extra: object) -> dict[str, object]:
    stream = io.StringIO()
    configure("json", "DEBUG", "payment", stream)
    logging.getLogger("saga_choreo.test").info("step %s is done", "charge", extra=extra)
    line: dict[str, object] = json.loads(stream.getvalue())
    jsonschema.validate(line, SCHEMA)
    return line


def test_a_json_line_has_the_ids_and_who_wrote_it() -> None:
    line = line_of(saga_id=SAGA, step_id="charge-payment", event="payment.charged", duration_ms=1.23456)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "saga_choreo.test",
        "message": "step charge is done",
        "saga_id": SAGA,
        "step_id": "charge-payment",
        "event": "payment.charged",
        "duration_ms": 1.235,
        "metadata": {"service": "payment", "version": __version__},
    }


def test_what_is_not_known_is_null() -> None:
    line = line_of()
    assert (line["saga_id"], line["step_id"], line["event"], line["duration_ms"]) == (None, None, None, None)


def test_a_bound_logger_says_its_ids_with_every_line_and_takes_more() -> None:
    stream = io.StringIO()
    configure("json", "INFO", "payment", stream)
    log = bound(logging.getLogger("x"), saga_id=SAGA, step_id="charge", event=None)
    log.info("one")
    log.info("two", extra={"duration_ms": 3, "step_id": "refund"})
    one, two = map(json.loads, stream.getvalue().splitlines())
    assert (one["saga_id"], one["step_id"], one["event"]) == (SAGA, "charge", None)
    assert (two["saga_id"], two["step_id"], two["duration_ms"]) == (SAGA, "refund", 3.0)


@pytest.mark.parametrize(("level", "said"), [("INFO", ["bad"]), ("DEBUG", ["joining", "bad"]), ("ERROR", [])])
def test_a_talkative_client_is_heard_from_warnings_on_unless_everything_is_wanted(level: str, said: list[str]) -> None:
    stream = io.StringIO()
    configure("json", level, "payment", stream)
    log = logging.getLogger("aiokafka.consumer")
    log.info("joining")
    log.warning("bad")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == said


def test_an_exception_is_in_the_line_and_bounded() -> None:
    stream = io.StringIO()
    configure("json", "INFO", "payment", stream)
    try:
        raise ValueError("x" * 3 * TEXT_MAX + " the end")
    except ValueError:
        logging.getLogger("x").exception("failed")
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert line["error"].endswith("the end")
    assert len(line["error"]) <= TEXT_MAX
    jsonschema.validate(line, SCHEMA)


@given(st.text(st.characters()), st.text(st.characters()) | st.none() | st.floats() | st.binary())
def test_whatever_is_logged_is_one_line(message: str, value: object) -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, message, None, None)
    record.saga_id = record.step_id = record.duration_ms = value
    (line,) = JsonLines("payment").format(record).splitlines()
    jsonschema.validate(json.loads(line), SCHEMA)
    human = HumanLines("payment").format(record)
    assert "\n" not in human
    assert "\x1b" not in human


def test_a_call_with_wrong_arguments_is_still_logged() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%d and %d", ("one",), None)
    assert "one" in json.loads(JsonLines().format(record))["message"]


def test_a_terminal_gets_short_lines_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    configure("auto", "info", "payment", stream)
    logging.getLogger("x").warning("late", extra={"saga_id": SAGA, "step_id": "charge", "duration_ms": 12.34})
    time, rest = stream.getvalue().split(" ", 1)
    assert len(time) == 12
    assert rest == "\x1b[33mWARNING \x1b[0m payment 43536373 charge late (12.3 ms)\n"


def test_no_colour_where_it_is_not_wanted_or_not_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    wanted_not, no_terminal = Terminal(), io.StringIO()
    for stream in (wanted_not, no_terminal):
        configure("human", "INFO", "payment", stream)
        logging.getLogger("x").error("late")
        assert "\x1b" not in stream.getvalue()
        assert stream.getvalue().endswith("ERROR    payment late\n")


def test_auto_is_json_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    configure(service="payment", stream=stream)
    logging.getLogger("x").debug("not shown")
    logging.getLogger("x").info("shown")
    assert json.loads(stream.getvalue())["message"] == "shown"


def test_configuring_twice_does_not_write_twice_and_stderr_is_the_default() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("json", stream=first)
    configure("json", stream=second)
    logging.getLogger("x").info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1
    configure("json")
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr


def test_an_unknown_level_is_an_error() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure("json", "loud", stream=io.StringIO())
