"""`sagas stuck`: which sagas wait, for what, from whom, since when and why, as one participant's store tells.

Who is there only a broker can tell: with one given, the signs of life that agents leave there are read. Without, or when it cannot be
reached, everything else is told all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from dataclasses import asdict
from typing import Any

from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import Output, emit_rows, schema, talk
from saga_choreo.cli.reading import with_store
from saga_choreo.errors import SagaError
from saga_choreo.ports import Topology
from saga_choreo.runtime.alive import WORD, Sign, Signs, read_alive
from saga_choreo.runtime.clock import SystemClock
from saga_choreo.runtime.plugins import WholeStore, make_broker
from saga_choreo.runtime.settings import read_settings
from saga_choreo.runtime.stuck import StuckSagas, stuck_sagas
from saga_choreo.runtime.waiting import StuckSaga

__all__ = ["list_stuck", "milliseconds"]

_COLUMNS = ("id", "key", "state", "since_at", "waiting")
_FIELDS = (*_COLUMNS, "schema", "choreography", "waits")
_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# The kept notices come in one go: after such a pause there are no more of them.
_QUIET_S = 0.5
_LISTEN_MAX_S = 5.0
# Where an agent is silent, or its clock is wrong, its next sign tells which.
_DOUBT_MAX_S = 15.0


def milliseconds(text: str) -> int:
    """'90s', '5m', '2h', '1d'. Raises CliError."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if found is None:
        raise CliError(ExitCode.USAGE, f"{text!r} is no time; write a number and a unit, such as 90s, 5m, 2h or 1d")
    return int(found[1]) * _UNITS[found[2]]


def list_stuck(store_url: str | None, out: Output, *, longer: str, service: str, broker: str, prefix: str, limit: int) -> None:
    for_ms, url = milliseconds(longer), broker or read_settings(os.environ).broker_url

    async def work(store: WholeStore) -> StuckSagas:
        heard = await _heard(url, prefix) if url else None
        return await stuck_sagas(store, time.time_ns() // 1_000_000, for_ms, service=service, heard=heard, limit=limit)

    found = with_store(store_url, work)
    rows = [_row(one) for one in found]
    if found.further and out.format in ("json", "jsonl"):
        rows.append(_further(found.further))
    among = " of those that were looked at" if found.further else ""
    emit_rows(rows, _COLUMNS, out, known=_FIELDS, empty=f"No saga{among} waits for longer than {longer}.")
    if found.further:
        talk(f"There are more: {found.further}.")
    if not url and found:
        talk("Whether the services waited for are running is not known: name their broker with --broker or SAGA_BROKER_URL.")
    if len(found) == limit:
        talk(f"There may be more than these {limit}; see --limit.")


def _row(one: StuckSaga) -> dict[str, Any]:
    return {
        "schema": schema("stuck"),
        "id": str(one.saga_id),
        "key": one.key,
        "choreography": one.choreography,
        "state": one.state.value,
        "since_at": one.since_ms,
        "waiting": "; ".join(map(str, one.waits)),
        "waits": [asdict(wait) for wait in one.waits],
    }


def _further(what: str) -> dict[str, Any]:
    """A last row, for programs: what was not looked at."""
    return {**dict.fromkeys(_FIELDS), "schema": schema("stuck-further"), "waiting": what}


async def _heard(url: str, prefix: str) -> dict[str, Sign] | None:
    """The last sign of each service. None when the broker cannot be asked."""
    broker, signs = make_broker(url, prefix=prefix), Signs("", SystemClock())
    try:
        await broker.open(Topology(service="saga-choreo", agent="stuck", events=(), create=False, receives=False))
        loop = asyncio.get_running_loop()
        began, notices, told = loop.time(), broker.notices(), False
        while True:
            doubt_s, listened_s = signs.doubt_s(), loop.time() - began
            if doubt_s > 0 and not told:
                talk(f"Some agent was not heard of lately: listening {min(doubt_s, _DOUBT_MAX_S):.0f} s for its next sign.")
                told = True
            left_s = (_DOUBT_MAX_S if doubt_s > 0 else _LISTEN_MAX_S) - listened_s
            async with asyncio.timeout(min(max(_QUIET_S, doubt_s), left_s)):
                notice = await anext(notices)
            if notice.subject.startswith(f"{WORD}."):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # no agent has written that
                    signs.hear(*read_alive(notice))
    except (TimeoutError, StopAsyncIteration):
        return signs.heard()
    except SagaError as error:
        talk(f"Who is running could not be asked of the broker: {error}")
        return None
    finally:
        await broker.close()
