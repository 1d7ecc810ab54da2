"""Many open sagas in no time: copies of one saga's rows, with ids of their own, put beside it by the database itself."""

from __future__ import annotations

from typing import Any
from uuid import UUID

__all__ = ["copies"]

_COPY = """
INSERT INTO saga_record ({columns}) SELECT {values} FROM saga_record AS r CROSS JOIN generate_series($2::bigint, $3::bigint) AS n
WHERE r.saga_id = $1
"""
# Started before the original, ten a millisecond, so that their age can still be read from the id.
_NEW_ID = "(lpad(to_hex({started_ms} - 1 - n / 10), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid"
# Repeated announcements come round within the hour, as those of sagas that were started one after the other do.
_NEW_DUE = "r.due_ms + (n * 7919) % 3600000"
_COLUMNS = (
    "SELECT attname FROM pg_attribute "
    "WHERE attrelid = 'saga_record'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
)
_PAGE = 20_000


async def copies(connection: Any, saga_id: UUID, count: int) -> None:
    """Of the rows of all services that are in this database."""
    made = {"saga_id": _NEW_ID.format(started_ms=saga_id.int >> 80), "due_ms": _NEW_DUE}
    columns = [row[0] for row in await connection.fetch(_COLUMNS)]
    values = [made.get(name, f"r.{name}") for name in columns]
    statement = _COPY.format(columns=", ".join(columns), values=", ".join(values))
    for first in range(1, count + 1, _PAGE):
        await connection.execute(statement, saga_id, first, min(first + _PAGE - 1, count), timeout=300)
    await connection.execute("ANALYZE saga_record")
