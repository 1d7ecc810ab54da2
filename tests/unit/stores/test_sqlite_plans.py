"""Scans stay on their indexes: a full scan of a large table would hold up every agent of a service."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from saga_choreo_sqlite import statements as sql
from saga_choreo_sqlite.letters import ACTIVE_JOBS, ITEMS_IN
from saga_choreo_sqlite.store import SqliteStore


def _plan(tmp_path: Path, statement: str) -> str:
    async def explain() -> str:
        store = SqliteStore(f"sqlite:///{tmp_path / 'store.db'}")
        await store.open()
        try:
            async with store.transaction() as transaction:
                numbered = [int(number) for number in re.findall(r"\?(\d+)", statement)]
                holes = max(numbered, default=statement.count("?"))
                rows = await transaction.user.fetch("EXPLAIN QUERY PLAN " + statement, *[1] * holes)
                return "\n".join(row[3] for row in rows)
        finally:
            await store.close()

    return asyncio.run(explain())


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (sql.DUE, "saga_record_due"),
        (sql.NEXT_DUE, "saga_record_due"),
        (sql.UNANNOUNCED, "saga_record_unannounced"),
        (sql.HELD, "saga_held_definition"),
        (sql.UNTOLD, "saga_held_received"),
        (sql.FORGET_HELD, "saga_held_received"),
        (sql.FORGET_KEYS, "saga_business_key_saga"),
        (sql.FORGET_QUARANTINED, "saga_quarantine_received"),
        (sql.CLAIM, "sqlite_autoindex_saga_record_1"),
        (sql.FORGET_RECORDS, "sqlite_autoindex_saga_record_1"),
        (sql.SAGAS, "sqlite_autoindex_saga_record_1"),
        (sql.PARKED, "saga_record_parked"),
        (sql.OPEN, "saga_record_due"),
        (sql.RESTING, "sqlite_autoindex_saga_record_1"),
        (ACTIVE_JOBS, "saga_job_finished"),
        (ITEMS_IN, "saga_job_item_state"),
        (sql.FORGET_ITEMS, "saga_job_finished"),
        (sql.FORGET_JOBS, "saga_job_finished"),
        (sql.MARK, "sqlite_autoindex_saga_record_1"),
    ],
)
def test_a_scan_uses_its_index(tmp_path: Path, statement: str, index: str) -> None:
    plan = _plan(tmp_path, statement)
    assert index in plan
    assert "SCAN saga_" not in plan


@pytest.mark.parametrize("statement", [sql.DUE, sql.UNANNOUNCED, sql.CLAIM, sql.SAGAS, sql.PARKED, sql.UNTOLD, sql.RESTING])
def test_a_scan_that_is_polled_sorts_nothing(tmp_path: Path, statement: str) -> None:
    assert "TEMP B-TREE" not in _plan(tmp_path, statement)
