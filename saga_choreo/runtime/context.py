"""What a handler gets as `ctx`, as a Protocol: the runtime implements it, tests may implement it themselves."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from pydantic import BaseModel

from saga_choreo.ports.store import UserTx

__all__ = ["StepContext"]


class StepContext(Protocol):
    """One attempt of one step of one saga. Valid only while the handler runs."""

    @property
    def tx(self) -> UserTx:
        """The transaction the step's record is written in; it begins at first use.

        Raises ConfigurationError in an external step, and where the store has no user transactions.
        """
        ...

    @property
    def raw(self) -> Any:
        """The driver's own connection, inside the same transaction. Adapters offer it with its type."""
        ...

    @property
    def saga_id(self) -> UUID: ...

    @property
    def key(self) -> str:
        """The business key the saga was started with."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        ...

    @property
    def idempotency_key(self) -> str:
        """For calls to the outside: the same over retries of the same call, another one for the compensation."""
        ...

    @property
    def token(self) -> str:
        """For an external step that returns `Pending()`: what `agent.complete_step(token, event)` takes. Give it to whoever will
        answer; it is no secret. The same over retries of the same call. Raises ConfigurationError in any other handler."""
        ...

    @property
    def deadline(self) -> datetime | None:
        """When the saga is aborted, if it still can be (aware, UTC)."""
        ...

    @property
    def step(self) -> str: ...

    @property
    def service(self) -> str: ...

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger with saga, step and attempt bound to every line."""
        ...

    async def heartbeat(self) -> None:
        """Ask whether this attempt of a long external call still counts. Raises when another one has taken over (this process was
        stopped for a while, say). Needed for nothing else: the agent renews the lease by itself. In a plain step it does nothing."""
        ...

    def keep(self, model: BaseModel) -> None:
        """Keep data for the compensation, in the same commit as the result. The last call counts."""
        ...
