"""`sagas cancel`: find, show the plan, ask, request; one refusal does not stop the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saga_choreo.cli.confirm import Consent, confirm
from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import Output, emit_rows
from saga_choreo.cli.reading import find_saga, with_store
from saga_choreo.cli.views import saga_row
from saga_choreo.errors import Refused
from saga_choreo.runtime.commands import request_cancel
from saga_choreo.runtime.plugins import WholeStore

__all__ = ["cancel_sagas"]

_COLUMNS = ("id", "key", "result", "message")


def cancel_sagas(store_url: str | None, out: Output, words: Sequence[str], reason: str, consent: Consent) -> None:
    async def work(store: WholeStore) -> list[dict[str, Any]]:
        found = [await find_saga(store, word) for word in words]
        rows = {row["id"]: row for row in (saga_row(records, {}) for records in found)}
        plan = [f"{row['id']}  {row['key']}  {row['choreography']}  {row['state']}" for row in rows.values()]
        if not confirm(f"cancel sagas ({reason})", plan, consent):
            return []
        ids = {records[0].saga_id: rows[str(records[0].saga_id)] for records in found}
        return [await _request(store, saga_id, row["key"], reason) for saga_id, row in ids.items()]

    results = with_store(store_url, work)
    if results or out.format in {"json", "jsonl"}:
        emit_rows(results, _COLUMNS, out)
    refused = [row for row in results if row["result"] == "refused"]
    if refused:
        exit_code = ExitCode.PARTIAL if len(refused) < len(results) else ExitCode.FAILED
        raise CliError(exit_code, f"{len(refused)} of {len(results)} requests were refused", hint=refused[0]["message"])


async def _request(store: WholeStore, saga_id: Any, key: str, reason: str) -> dict[str, Any]:
    try:
        await request_cancel(store, saga_id, reason)
    except Refused as exc:
        return {"id": str(saga_id), "key": key, "result": "refused", "message": str(exc)}
    return {"id": str(saga_id), "key": key, "result": "requested", "message": ""}
