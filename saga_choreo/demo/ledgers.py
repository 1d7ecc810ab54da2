"""Reads the services' own ledgers: files that the toolkit knows nothing of, opened read-only with Python's own SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from saga_choreo.demo.judge import Effect

__all__ = ["effects_in"]


def effects_in(service: str, database: Path) -> list[Effect]:
    """All effects of one service, in the order they were written. A service that never had an effect has no ledger."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        if not connection.execute("select 1 from sqlite_master where type = 'table' and name = 'ledger'").fetchone():
            return []
        rows = connection.execute("select saga_id, step, effect, at_ns, wall_ns from ledger order by rowid")
        return [Effect(service, *row) for row in rows]
