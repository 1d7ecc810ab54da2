"""A participant's store with dead letters of both kinds, and the commands on it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from process import in_process
from shopstore import CANCELLED, ORDERS, RUNNING, START_MS, fill_at

from saga_choreo.codec.wire import encode
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind
from saga_choreo.model.event import EventRef
from saga_choreo.ports import Quarantined
from saga_choreo.runtime.deadletters.door import DeadLetters
from saga_choreo.runtime.plugins import make_store

__all__ = ["STEP", "WHY", "data", "dlq", "fill_letters", "fill_letters_at", "ids", "jobs"]

WHY = ("--reason", "ticket 4411")
STEP = f"{RUNNING}:charge"


def _message(number: int, **changes: Any) -> Quarantined:
    """A DONE of the origin, of a saga that has ended; undecodable ones have another body."""
    made = Envelope(
        kind=MessageKind.DONE,
        saga_id=CANCELLED,
        choreography="orders",
        definition=ORDERS.definition,
        origin="shop",
        sender="shop",
        channel=Channel(ChannelKind.EVENT, "order.created"),
        from_step="origin",
        event=EventRef("order.created"),
        key="ORDER-3",
        payload=b'{"n":1}',
        sent_ns=1,
    )
    headers, body = encode(made)
    letter = Quarantined(
        service="shop",
        code="stale",
        detail="too old",
        channel="event.order.created",
        headers=headers,
        body=body,
        received_ms=START_MS + number,
        saga_id=str(CANCELLED),
        agent="a1b2",
        version="0.1.0",
    )
    return replace(letter, **changes)


MESSAGES = (
    _message(1),
    _message(2, code="invalid_json", detail="line 1 of 'x' is no JSON", body=b"\xff{", saga_id=""),
    _message(3, code="invalid_json", detail="line 7 of 'y' is no JSON", body=b"{", saga_id=""),
)


async def fill_letters_at(url: str) -> None:
    """The store of `shopstore`, with three quarantined messages beside its parked step."""
    await fill_at(url)
    opened = make_store(url)
    await opened.open()
    async with opened.transaction() as transaction:
        await transaction.append(quarantined=MESSAGES)
        await transaction.commit()
    await opened.close()


def fill_letters(folder: Path) -> str:
    """The store's URL."""
    url = f"sqlite:///{folder}/shop.db"
    asyncio.run(fill_letters_at(url))
    return url


def dlq(url: str, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return in_process("dlq", *args, "--store", url, **environ)


def data(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ids(url: str, *args: str) -> list[str]:
    return dlq(url, "list", "-o", "name", *args).stdout.split()


def jobs(url: str) -> list[Any]:
    async def read() -> list[Any]:
        opened = make_store(url)
        await opened.open()
        try:
            return list(await DeadLetters(opened).jobs())
        finally:
            await opened.close()

    return asyncio.run(read())
