"""FastStream over NATS JetStream with faststream-outbox on PostgreSQL: choreographed services with an inbox table, and no saga library.

What a team writes today. The outbox row, the inbox row and the business row of a message are one transaction; the outbox's own
workers pass on what is committed. Written as the documentation of both packages shows; all parts share one process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import sqlalchemy as sa
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from faststream_outbox import OutboxBroker, make_outbox_table
from nats.js.api import ConsumerConfig, DeliverPolicy
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tests.benchmarks.workload import EFFECTS, SELECT, UPSERT, Meter, Task, all_of_them, must_fail, names, report, run

_METADATA = sa.MetaData()
_OUTBOX = make_outbox_table(_METADATA, table_name="stream_outbox")
_INBOX = sa.Table(
    "stream_inbox", _METADATA, sa.Column("consumer", sa.Text, primary_key=True), sa.Column("message", sa.Text, primary_key=True)
)
_EFFECT = sa.text(UPSERT.format(":saga", ":action"))
_RECEIVE = sa.text("INSERT INTO stream_inbox VALUES (:consumer, :message) ON CONFLICT DO NOTHING")
_READS = {
    "inventory": {"order_placed": ("inventory", "inventory_done"), "payment_undone": ("undo_inventory", "order_cancelled")},
    "payment": {"inventory_done": ("payment", "payment_done"), "shipment_undone": ("undo_payment", "payment_undone")},
    "shipment": {"payment_done": ("shipment", "shipment_done"), "confirm_failed": ("undo_shipment", "shipment_undone")},
    "order": {"shipment_done": ("confirm", "order_confirmed")},
}


class Message(BaseModel):
    saga: str
    name: str

    @property
    def id(self) -> str:
        return f"{self.saga}:{self.name}"


class Services:
    def __init__(self, task: Task) -> None:
        self.task = task
        self.prefix = f"stream{time.time_ns() // 1000:x}"
        self.stream = JStream(name=self.prefix, subjects=[f"{self.prefix}.>"])
        self.engine: AsyncEngine = create_async_engine(task.driver("asyncpg"), pool_size=20, max_overflow=20)
        self.nats = NatsBroker(task.nats, logger=None)
        self.outbox = OutboxBroker(self.engine, outbox_table=_OUTBOX, logger=None)
        self.ended: dict[str, asyncio.Future[str]] = {}
        workers = {"max_workers": 16, "fetch_batch_size": 64, "min_fetch_interval": 0.005, "max_fetch_interval": 0.2}
        self.outbox.subscriber("messages", **workers)(self.pass_on())
        for service, reactions in _READS.items():
            for event in reactions:
                self.subscribe(service, event, self.step(service))
        for event in ("order_confirmed", "order_cancelled"):
            self.subscribe("watcher", event, self.watch())

    def pass_on(self) -> Callable[[Message], Awaitable[None]]:
        async def pass_on(message: Message) -> None:
            subject = f"{self.prefix}.{message.name}"
            await self.nats.publish(message, subject, headers={"Nats-Msg-Id": message.id}, stream=self.prefix)

        return pass_on

    def subscribe(self, service: str, event: str, handler: Callable[[Message, NatsMessage], Awaitable[None]]) -> None:
        self.nats.subscriber(
            f"{self.prefix}.{event}",
            stream=self.stream,
            durable=f"{service}_{event}",
            pull_sub=PullSub(batch_size=32),
            ack_policy=AckPolicy.NACK_ON_ERROR,
            max_workers=16,
            config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL, max_ack_pending=1000),
        )(handler)

    def step(self, service: str) -> Callable[[Message, NatsMessage], Awaitable[None]]:
        async def handle(message: Message, msg: NatsMessage) -> None:
            async with self.engine.begin() as connection:
                received = await connection.execute(_RECEIVE, {"consumer": service, "message": message.id})
                if received.rowcount:
                    action, then = _READS[service][message.name]
                    if action == "confirm" and must_fail(message.saga, self.task):
                        then = "confirm_failed"
                    else:
                        await connection.execute(_EFFECT, {"saga": message.saga, "action": action})
                    await self.publish(connection, Message(saga=message.saga, name=then))

        return handle

    def watch(self) -> Callable[[Message, NatsMessage], Awaitable[None]]:
        async def handle(message: Message, msg: NatsMessage) -> None:
            async with self.engine.begin() as connection:
                await connection.execute(_RECEIVE, {"consumer": "watcher", "message": message.id})
            ended = self.ended.get(message.saga)
            if ended and not ended.done():
                ended.set_result(message.name)

        return handle

    async def publish(self, connection: AsyncConnection, message: Message) -> None:
        await self.outbox.publish(message, queue="messages", session=connection)

    async def one(self, saga: str, _intended_s: float) -> None:
        self.ended[saga] = asyncio.get_running_loop().create_future()
        async with self.engine.begin() as connection:
            await self.publish(connection, Message(saga=saga, name="order_placed"))
        await asyncio.wait_for(self.ended[saga], 120)


async def main(task: Task) -> None:
    logging.disable(logging.WARNING)
    services, sagas = Services(task), names(task)
    async with services.engine.begin() as connection:
        await connection.execute(sa.text(EFFECTS))
        await connection.run_sync(_METADATA.create_all)
    await services.nats.start()
    await services.outbox.start()
    meter = Meter(task)
    await all_of_them(sagas, task, services.one)
    meter.stop()
    async with services.engine.connect() as connection:
        rows = (await connection.execute(sa.text(SELECT.format(":sagas")), {"sagas": sagas})).all()
    await services.outbox.stop()
    await services.nats.stop()
    await services.engine.dispose()
    report("faststream", task, sagas, rows, meter)


if __name__ == "__main__":
    run(main)
