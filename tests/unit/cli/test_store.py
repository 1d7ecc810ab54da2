"""`saga-choreo store`: migration and checks of real files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from saga_choreo.cli.exits import ExitCode
from saga_choreo.runtime.plugins import make_store
from saga_choreo_sqlite import schema
from tests.unit.cli.process import in_process
from tests.unit.cli.shopstore import fill


def made(folder: Path) -> str:
    url = f"sqlite:///{folder}/shop.db"

    async def make() -> None:
        store = make_store(url)
        await store.open()
        await store.close()

    asyncio.run(make())
    return url


def change(url: str, *statements: str) -> None:
    connection = apsw.Connection(url.removeprefix("sqlite:///"))
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    done = in_process("store", "migrate", "--dry-run", "--store", url)
    assert (done.returncode, "would run: 001" in done.stdout) == (0, True)
    assert not (tmp_path / "new.db").exists()


def test_a_store_is_migrated_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    first = json.loads(in_process("store", "migrate", "--json", "--store", url).stdout)
    assert (first["from"], first["version"], first["pending"]) == (0, schema.SCHEMA_VERSION, [])
    assert len(first["done"]) == schema.SCHEMA_VERSION
    assert "nothing to do" in in_process("store", "migrate", "--store", url).stdout


def test_a_newer_store_is_refused_unless_its_migrations_only_added(tmp_path: Path) -> None:
    url = made(tmp_path)
    newer = f"update saga_meta set value = '{schema.SCHEMA_VERSION + 1}' where name = 'schema_version'"
    change(url, newer, "delete from saga_meta where name = 'oldest_version'")
    done = in_process("store", "migrate", "--store", url)
    assert (done.returncode, "upgrade saga_choreo" in done.stderr) == (ExitCode.CONFIGURATION, True)
    change(url, f"insert into saga_meta values ('oldest_version', '{schema.SCHEMA_VERSION}')")
    assert "nothing to do" in in_process("store", "migrate", "--store", url).stdout
    assert in_process("sagas", "list", "--store", url).returncode == 0, "this release works beside the newer one"


def test_a_sound_store_has_no_findings(tmp_path: Path) -> None:
    done = in_process("store", "check", "--json", "--store", made(tmp_path))
    said = json.loads(done.stdout)
    assert (done.returncode, said["findings"], said["settings"]["synchronous"]) == (0, [], "full")


def test_what_contradicts_itself_is_listed_with_exit_code_6(tmp_path: Path) -> None:
    url = fill(tmp_path)
    change(url, "insert into saga_lock values ('shop', 'customer:1', zeroblob(16))")
    done = in_process("store", "check", "--json", "--store", url)
    found = {one["code"] for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == ExitCode.FINDINGS
    assert "lock_without_owner" in found


def test_a_store_that_is_behind_and_one_that_is_not_durable_are_findings(tmp_path: Path) -> None:
    done = in_process("store", "check", "--json", "--store", f"sqlite:///{tmp_path}/none.db")
    assert [one["code"] for one in json.loads(done.stdout)["findings"]] == ["version"]
    relaxed = in_process("store", "check", "--json", "--store", made(tmp_path) + "?durability=relaxed")
    assert [one["code"] for one in json.loads(relaxed.stdout)["findings"]] == ["durability"]
    assert (done.returncode, relaxed.returncode) == (ExitCode.FINDINGS, ExitCode.FINDINGS)


def test_a_ledger_is_compared_with_the_records(tmp_path: Path) -> None:
    url = made(tmp_path)
    change(
        url, "create table ledger (saga text, step text, side text)", f"insert into ledger values ('{'0' * 32}', 'charge', 'do')"
    )
    done = in_process("store", "check", "--json", "--store", url, "--ledger", "select saga, step, side from ledger")
    assert [one["code"] for one in json.loads(done.stdout)["findings"]] == ["effect_without_record"]
    asked = ("store", "check", "--json", "--store", fill(tmp_path), "--ledger", "select saga, step, side from ledger")
    codes = [(one["code"], one["step"]) for one in json.loads(in_process(*asked).stdout)["findings"]]
    assert ("step_not_in_ledger", "ship") in codes, "it is done in a saga, and stands nowhere"
    assert "step_not_in_ledger" not in in_process(*asked, "--ledger-step", "charge").stdout
    assert "has a step 'chrage'" in in_process(*asked, "--ledger-step", "chrage").stderr
    assert in_process("store", "check", "--store", url, "--ledger-step", "charge").returncode == ExitCode.USAGE
    wrong = in_process("store", "check", "--store", url, "--ledger", "select step from ledger")
    assert (wrong.returncode, "saga id, step" in wrong.stderr) == (ExitCode.CONFIGURATION, True)


@pytest.mark.parametrize("server", ["postgres_schema", "redis_prefix"])
def test_migration_and_check_work_on_servers_too(server: str, request: pytest.FixtureRequest) -> None:
    make: Callable[[], str] = request.getfixturevalue(server)
    url = make()
    assert "would run: 001" in in_process("store", "migrate", "--dry-run", "--store", url).stdout
    before = in_process("store", "check", "--json", "--store", url)
    assert [one["code"] for one in json.loads(before.stdout)["findings"]] == ["version"]
    assert in_process("store", "migrate", "--store", url).returncode == 0
    after = in_process("store", "check", "--json", "--store", url)
    assert (after.returncode, json.loads(after.stdout)["findings"]) == (0, [])
