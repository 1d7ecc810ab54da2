"""`sagas cancel`: find, show the plan, ask, request; one refusal does not stop the others."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from saga_choreo.cli.confirm import Consent, confirm
from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import Output, Row, emit_rows
from saga_choreo.cli.reading import find_saga, with_store
from saga_choreo.cli.views import saga_row
from saga_choreo.errors import Refused
from saga_choreo.runtime.commands import request_cancel
from saga_choreo.runtime.plugins import WholeStore

__all__ = ["cancel_sagas"]

_COLUMNS = ("id", "key", "result", "message")


def cancel_sagas(store_url: str | None, out: Output, words: Sequence[str], reason: str, consent: Consent) -> None:
    is_read_by_program = out.format in {"json", "jsonl"}

    async def work(store: WholeStore) -> list[Row]:
        found = {records[0].saga_id: saga_row(records, {}) for records in [await find_saga(store, word) for word in words]}
        plan = [f"{row['id']}  {row['key']}  {row['choreography']}  {row['state']}" for row in found.values()]
        if not confirm(f"cancel sagas ({reason})", plan, consent, quiet=is_read_by_program):
            return [_result(saga_id, row["key"], "planned") for saga_id, row in found.items()] if is_read_by_program else []
        return [await _request(store, saga_id, row["key"], reason) for saga_id, row in found.items()]

    results = with_store(store_url, work)
    if results:
        emit_rows(results, _COLUMNS, out)
    refused = [row for row in results if row["result"] == "refused"]
    if refused:
        exit_code = ExitCode.PARTIAL if len(refused) < len(results) else ExitCode.FAILED
        raise CliError(exit_code, f"{len(refused)} of {len(results)} requests were refused", hint=refused[0]["message"])


def _result(saga_id: UUID, key: str, result: str, message: str = "") -> Row:
    return {"id": str(saga_id), "key": key, "result": result, "message": message}


async def _request(store: WholeStore, saga_id: UUID, key: str, reason: str) -> Row:
    try:
        await request_cancel(store, saga_id, reason)
    except Refused as exc:
        return _result(saga_id, key, "refused", str(exc))
    return _result(saga_id, key, "requested")
