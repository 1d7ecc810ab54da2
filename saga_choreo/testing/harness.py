"""Several agents in one process, for tests: yours as well as ours. Real broker and stores by URL, or the memory ones.

    async with Cluster(order.agent, payment.agent, broker="memory://", store="memory://{service}") as cluster:
        handle = await cluster["order"].start_saga(OrderCreated(...), key="o-1")
        assert await handle.wait(10) == "completed"
        rows = await cluster.fetch("payment", "read", "charges")

Every agent has an address of its own in the store; `{service}` in the URL is its name. Agents can be stopped and started
one by one, to see what the others do meanwhile.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

from saga_choreo.errors import ConfigurationError
from saga_choreo.runtime.agent import Agent
from saga_choreo.runtime.plugins import make_store
from saga_choreo.runtime.timing import Limits

__all__ = ["Cluster"]

_READY_S = 20.0


class Cluster:
    """Agents that serve while the block is open. Without `broker`, `store` or `limits` each agent keeps its own."""

    def __init__(self, *agents: Agent, broker: str = "", store: str = "", limits: Limits | None = None) -> None:
        self._agents = {agent.name: agent for agent in agents}
        if len(self._agents) != len(agents):
            raise ConfigurationError("two agents of a cluster have the same name; run each in a cluster of its own")
        self._store = store
        self._serving: dict[str, AbstractAsyncContextManager[Agent]] = {}
        for agent in agents:
            agent.configure(broker=broker, store=self.store_url(agent.name), limits=limits)

    def __getitem__(self, service: str) -> Agent:
        return self._agents[service]

    def store_url(self, service: str) -> str:
        """Where the service's records and its own tables are; empty when the agents bring their own."""
        return self._store.replace("{service}", service)

    async def start(self, *services: str) -> None:
        """Start these, or all that do not serve yet. Raises what opening an agent raises."""
        for service in services or tuple(self._agents):
            if service not in self._serving:
                serving = self._agents[service].serving()
                await serving.__aenter__()
                self._serving[service] = serving

    async def stop(self, *services: str) -> None:
        """Stop these, or all, as a clean shutdown does."""
        for service in services or tuple(self._serving):
            serving = self._serving.pop(service, None)
            if serving is not None:
                await serving.__aexit__(None, None, None)

    async def ready(self, timeout_s: float = _READY_S) -> None:
        """Wait until every agent that serves knows all owners of its choreographies. Raises NotReady."""
        for service in self._serving:
            await self._agents[service].ready(timeout_s)

    async def fetch(self, service: str, statement: str, *parameters: Any) -> list[Any]:
        """What a statement finds in a service's database, in a transaction of its own."""
        store = make_store(self.store_url(service))
        await store.open()
        try:
            async with store.transaction() as transaction:
                return await transaction.user.fetch(statement, *parameters)
        finally:
            await store.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
            await self.ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()
