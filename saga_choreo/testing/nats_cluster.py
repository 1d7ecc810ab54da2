"""Three `nats-server`s that replicate to each other, for tests of leaders that die and quorums that are lost."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from saga_choreo.errors import BrokerUnavailable
from saga_choreo.testing.servers import NatsServer, free_port

__all__ = ["NatsCluster"]

_READY_S = 60.0
_POLL_S = 0.05


class NatsCluster:
    """Servers `n1` to `n3`, by these names in `servers`; each may be killed and started again by itself."""

    def __init__(self, folder: Path | str, size: int = 3) -> None:
        names = [f"n{number}" for number in range(1, size + 1)]
        routes = {name: free_port() for name in names}
        self._monitors = {name: free_port() for name in names}
        all_routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes.values())
        self.servers = {
            name: NatsServer(
                Path(folder) / name,
                settings=f'server_name: {name}\nhttp: "127.0.0.1:{self._monitors[name]}"\n'
                f'cluster {{ name: saga, listen: "127.0.0.1:{routes[name]}", routes: [{all_routes}] }}',
            )
            for name in names
        }

    @property
    def url(self) -> str:
        """With three replicas of everything."""
        return f"nats://{','.join(f'127.0.0.1:{server.port}' for server in self.servers.values())}?replicas={len(self.servers)}"

    def start(self) -> Self:
        """Start those that do not run, and return when all have caught up with each other."""
        for server in self.servers.values():
            server.start()
        deadline = time.monotonic() + _READY_S
        while not all(self._is_healthy(name) for name in self.servers):
            if time.monotonic() > deadline:
                self.stop()
                raise BrokerUnavailable(f"the NATS cluster at {self.url!r} did not come together within {_READY_S:g} s")
            time.sleep(_POLL_S)
        return self

    def _is_healthy(self, name: str) -> bool:
        """Its own word: JetStream is up, it knows the leader, and it has all that the others have."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._monitors[name]}/healthz", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        for server in self.servers.values():
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
