"""Dead letters as JSON, out of a store, through a pipe and into one: nothing is lost, changed or added twice."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from letterstore import WHY, data, dlq, fill_letters, ids
from process import COMMAND

from saga_choreo.runtime.plugins import make_store


@pytest.fixture
def store(tmp_path: Path) -> str:
    return fill_letters(tmp_path)


def test_what_is_exported_can_be_imported_elsewhere_byte_by_byte(store: str, tmp_path: Path) -> None:
    file = tmp_path / "letters.jsonl"
    file.write_text(dlq(store, "export").stdout)
    assert len(file.read_text().splitlines()) == 4
    other = f"sqlite:///{tmp_path}/other.db"

    async def make() -> None:
        opened = make_store(other)
        await opened.open()
        await opened.close()

    asyncio.run(make())
    planned = dlq(other, "import", str(file))
    assert (planned.returncode, "1 parked steps are left out" in planned.stderr) == (9, True)
    first = data(dlq(other, "import", str(file), "--yes", "--json"))
    again = data(dlq(other, "import", str(file), "--yes", "--json"))
    assert [(row["read"], row["added"], row["known"]) for (row,) in (first, again)] == [(3, 3, 0), (3, 0, 3)]
    assert data(dlq(store, "import", str(file), "--yes", "--json"))[0]["added"] == 0, "they are there already"

    def contents(url: str) -> list[tuple[Any, ...]]:
        rows = [json.loads(line) for line in dlq(url, "export", "--kind", "message").stdout.splitlines()]
        return sorted(
            (r["channel"], r["body"], r["encoding"], tuple(r["headers"].items()), r["first_failed"], r["code"]) for r in rows
        )

    assert contents(other) == contents(store)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", "entry 2 is no dead letter: it has no 'id'"),
        ('{"code": "stale"}', "entry 2 is no dead letter: it has no 'id'"),
        ('{"id": "m1", "kind": "poison"}', "entry 2 ('m1') is no dead letter: its kind is 'poison'"),
        ('{"id": "m1", "kind": "message", "service": "s", "code": "c", "detail": "", "channel": "nowhere"}', "'nowhere'"),
    ],
)
def test_one_bad_line_imports_nothing(store: str, tmp_path: Path, line: str, fault: str) -> None:
    good = dlq(store, "export", "m1").stdout
    file = tmp_path / "letters.jsonl"
    file.write_text(f"{good}{line}\n{good}")
    done = dlq(f"sqlite:///{tmp_path}/shop.db", "import", str(file), "--yes")
    assert (done.returncode, done.stdout) == (2, "")
    assert fault in done.stderr
    assert ids(store, "--kind", "message") == ["m3", "m2", "m1"]


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("headers", {"a": 1}, "no object of strings"),
        ("body", 7, "'body' is missing, or no string"),
        ("encoding", "rot13", "it is utf-8 or base64"),
        ("first_failed", "soon", "is no time"),
        ("first_failed", "2026-11-23T01:40:00", "no time zone"),
        ("service", "", "must not be empty"),
    ],
)
def test_an_import_says_which_value_is_wrong(store: str, tmp_path: Path, name: str, value: Any, fault: str) -> None:
    row = json.loads(dlq(store, "export", "m1").stdout)
    file = tmp_path / "letters.jsonl"
    file.write_text(json.dumps(row | {name: value}))
    done = dlq(store, "import", str(file), "--yes")
    assert (done.returncode, fault in done.stderr) == (2, True), done.stderr


def test_a_pipe_of_exported_letters_is_replayed_and_strangers_are_left_out(store: str) -> None:
    exported = dlq(store, "export").stdout.splitlines()
    rows = [json.loads(line) for line in exported]
    wanted = [row for row in rows if row["kind"] == "step"]
    foreign = [row | {"first_failed": "2020-01-01T00:00:00.000Z"} for row in rows if row["id"] == "m1"] + [{"id": "m99"}]
    lines = "\n".join(json.dumps(row) for row in [*wanted, *foreign])
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_")}
    command = [COMMAND, "dlq", "replay", "-", *WHY, "--store", store]
    asked = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert (asked.returncode, asked.stdout) == (9, "")
    done = subprocess.run(
        [*command, "--yes", "-o", "json"], input=lines, capture_output=True, text=True, timeout=60, check=False, env=environ
    )
    (row,) = data(done)
    assert (row["total"], row["wanted"]) == (1, "-")
    assert "m1 is not the letter that was exported" in done.stderr
    assert "1 of 3 letters are not in this store" in done.stderr


def test_a_closed_pipe_ends_an_export_quietly(store: str) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_")}
    with subprocess.Popen(
        [COMMAND, "dlq", "export", "--store", store], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(60) == 141
