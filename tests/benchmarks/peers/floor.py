"""The floor: the same saga with the same database and broker calls, written by hand with no toolkit at all, and batched as far as it goes.

An inbox row and an outbox row per message; for a batch of messages one transaction, one round of publishing, one of acknowledging.
`--mode batch` writes the business rows of a batch with one statement; `handlers` with a statement each, as the handlers of a toolkit
do it; `single` runs a transaction per message, as an unbatched service does. What a toolkit costs is what it adds to this.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

import asyncpg
import nats
import orjson
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from tests.benchmarks.hops import Hops
from tests.benchmarks.workload import EFFECTS, SELECT, UPSERT, Meter, Task, all_of_them, must_fail, names, report, run

_BATCH, _SINGLE = 64, 16
_READS = {
    "inventory": ("order_placed", "payment_undone"),
    "payment": ("inventory_done", "shipment_undone"),
    "shipment": ("payment_done", "confirm_failed"),
    "order": ("shipment_done",),
    "watcher": ("order_confirmed", "order_cancelled"),
}
# What a service does on an event, and the event it publishes then. The order service decides for itself.
_DOES = {
    "order_placed": ("inventory", "inventory_done"),
    "inventory_done": ("payment", "payment_done"),
    "payment_done": ("shipment", "shipment_done"),
    "confirm_failed": ("undo_shipment", "shipment_undone"),
    "shipment_undone": ("undo_payment", "payment_undone"),
    "payment_undone": ("undo_inventory", "order_cancelled"),
}
_TABLES = (
    "CREATE TABLE IF NOT EXISTS floor_inbox (consumer text, message text, PRIMARY KEY (consumer, message));"
    "CREATE TABLE IF NOT EXISTS floor_outbox (id bigserial PRIMARY KEY, saga text, name text)"
)
_RECEIVE = "INSERT INTO floor_inbox SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING RETURNING message"
_EFFECT = UPSERT.format("$1", "$2")
_EFFECTS_AT_ONCE = UPSERT.replace("VALUES ({}, {})", "SELECT * FROM unnest($1::text[], $2::text[])")
_SEND = "INSERT INTO floor_outbox (saga, name) SELECT * FROM unnest($1::text[], $2::text[]) RETURNING id, saga, name"
_SENT = "DELETE FROM floor_outbox WHERE id = ANY($1)"


class Message(NamedTuple):
    saga: str
    name: str

    @property
    def id(self) -> str:
        return f"{self.saga}:{self.name}"


class Floor:
    def __init__(self, task: Task, pool: asyncpg.Pool, js: Any) -> None:
        self.task, self.pool, self.js = task, pool, js
        self.prefix = f"floor{time.time_ns() // 1000:x}"
        self.ended: dict[str, asyncio.Future[str]] = {}
        self.hops = Hops()
        self.stop = asyncio.Event()

    async def declare(self) -> None:
        await self.pool.execute(EFFECTS)
        await self.pool.execute(_TABLES)
        await self.js.add_stream(StreamConfig(name=self.prefix, subjects=[f"{self.prefix}.>"]))
        for service, events in _READS.items():
            subjects = [f"{self.prefix}.{event}" for event in events]
            consumer = ConsumerConfig(
                durable_name=service, filter_subjects=subjects, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=5000
            )
            await self.js.add_consumer(self.prefix, consumer)

    async def serve(self, service: str) -> None:
        subscription = await self.js.pull_subscribe_bind(durable=service, stream=self.prefix)
        single = self.task.mode == "single"
        while not self.stop.is_set():
            try:
                received = await subscription.fetch(_SINGLE if single else _BATCH, timeout=0.5)
            except (NatsTimeout, TimeoutError):
                continue
            if single:
                await asyncio.gather(*(self.handle(service, [one]) for one in received))
            else:
                await self.handle(service, received)

    async def handle(self, service: str, received: list[Any]) -> None:
        messages = [Message(**orjson.loads(one.data)) for one in received]
        async with self.pool.acquire() as connection, connection.transaction():
            rows = await self.write(connection, service, messages)
        if service == "watcher":
            for message in messages:
                ended = self.ended.get(message.saga)
                if ended and not ended.done():
                    ended.set_result(message.name)
        if rows:
            await self.publish(rows)
            await self.pool.execute(_SENT, [row["id"] for row in rows])
        await asyncio.gather(*(one.ack() for one in received))

    async def write(self, connection: Any, service: str, messages: list[Message]) -> list[Any]:
        """The batch in one transaction: inbox, effects, outbox."""
        fresh = {row[0] for row in await connection.fetch(_RECEIVE, service, [message.id for message in messages])}
        effects: list[tuple[str, str]] = []
        says: list[tuple[str, str]] = []
        for message in messages:
            if message.id not in fresh or service == "watcher":
                continue
            effect, says_then = self.decide(message)
            if effect:
                effects.append((message.saga, effect))
            says.append((message.saga, says_then))
        if effects and self.task.mode == "batch":
            await connection.execute(_EFFECTS_AT_ONCE, *map(list, zip(*effects, strict=True)))
        else:
            for saga, effect in effects:
                await connection.execute(_EFFECT, saga, effect)
        return await connection.fetch(_SEND, *map(list, zip(*says, strict=True))) if says else []

    def decide(self, message: Message) -> tuple[str, str]:
        if message.name == "shipment_done":
            return ("", "confirm_failed") if must_fail(message.saga, self.task) else ("confirm", "order_confirmed")
        return _DOES[message.name]

    async def publish(self, rows: list[Any]) -> None:
        confirmed = [
            await self.js.publish_async(
                f"{self.prefix}.{row['name']}",
                orjson.dumps({"saga": row["saga"], "name": row["name"]}),
                headers={"Nats-Msg-Id": f"{row['saga']}:{row['name']}"} | self.stamp(row),
            )
            for row in rows
        ]
        await asyncio.gather(*confirmed)

    def stamp(self, row: Any) -> dict[str, str]:
        """When hops are measured, the time of publishing, as our own events have it always."""
        if not self.task.hops:
            return {}
        now = time.time()
        self.hops.hear(row["saga"], row["name"], now)
        return {"time": str(now)}

    async def one(self, saga: str, intended_s: float) -> None:
        if self.task.hops and self.task.rate:
            self.hops.began(saga, intended_s)
        self.ended[saga] = asyncio.get_running_loop().create_future()
        async with self.pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(_SEND, [saga], ["order_placed"])
        await self.publish(rows)
        await self.pool.execute(_SENT, [row["id"] for row in rows])
        await asyncio.wait_for(self.ended[saga], 120)


async def main(task: Task) -> None:
    pool = await asyncpg.create_pool(task.database, min_size=16, max_size=16)
    client = await nats.connect(task.nats)
    floor = Floor(task, pool, client.jetstream(publish_async_max_pending=4000))
    await floor.declare()
    services = [asyncio.create_task(floor.serve(service)) for service in _READS]
    sagas = names(task)
    meter = Meter(task)
    await all_of_them(sagas, task, floor.one)
    meter.stop()
    floor.stop.set()
    await asyncio.gather(*services)
    rows = await pool.fetch(SELECT.format("$1"), sagas)
    await floor.js.delete_stream(floor.prefix)
    await client.close()
    await pool.close()
    report(f"limit_{task.mode}", task, sagas, rows, meter, **(floor.hops.figures() if task.hops else {}))


if __name__ == "__main__":
    run(main)
