"""Events and a context for tests of what users write."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from saga_choreo.model.event import Event
from saga_choreo.ports.store import UserTx


class OrderCreated(Event, name="order.created"):
    order_id: str
    amount: int = 1


class StockReserved(Event, name="stock.reserved"):
    order_id: str


class StockRefused(Event, name="stock.refused"):
    order_id: str


class PaymentCharged(Event, name="payment.charged", version=2):
    charge_id: str


class PaymentTimedOut(Event, name="payment.timed_out"):
    pass


class PaymentRefunded(Event, name="payment.refunded"):
    charge_id: str


class MailSent(Event, name="mail.sent"):
    to: str = ""


class Receipt(BaseModel):
    """Kept for a compensation."""

    number: int


class FakeContext:
    """A context by hand: the declarations never look inside."""

    saga_id = UUID(int=0)
    key = "ORDER-1"
    attempt = 1
    idempotency_key = "k"
    token = "t"
    deadline: datetime | None = None
    step = "step"
    service = "service"
    raw: Any = None
    log = logging.LoggerAdapter(logging.getLogger("tests"), {})

    def __init__(self) -> None:
        self.kept: BaseModel | None = None

    @property
    def tx(self) -> UserTx:
        raise NotImplementedError

    async def heartbeat(self) -> None:
        return None

    def keep(self, model: BaseModel) -> None:
        self.kept = model
