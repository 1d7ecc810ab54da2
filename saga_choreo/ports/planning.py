"""What a broker needs before agents can run, as a plan that people can read, carry out and check.

Apart from `Broker`, since an adapter does without: then `saga-choreo broker` opens and closes it for each service instead, and can
name channels only, not what the server calls them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from saga_choreo.ports.broker import Topology

__all__ = ["Difference", "Planned", "Planning"]


@dataclass(frozen=True, slots=True)
class Planned:
    """One thing that would be declared: its kind in the server's own word ("stream", "queue", "topic"), its name there, and the
    settings that matter."""

    kind: str
    name: str
    settings: Mapping[str, str | int | float | list[str]] = field(default_factory=dict[str, "str | int | float | list[str]"])


@dataclass(frozen=True, slots=True)
class Difference:
    """`missing`: planned and not there. `different`: there, and not as planned. `extra`: there under this prefix, and no longer
    planned; it may belong to a service that was not named, so it is told and left alone. `unseen`: the server does not show whether it
    is as planned (to this account, or to anybody)."""

    verdict: Literal["missing", "different", "extra", "unseen"]
    kind: str
    name: str
    message: str = ""


@runtime_checkable
class Planning(Protocol):
    """Of a broker that is not open. One topology per service; `receives` and `create` are not looked at."""

    def plan(self, topologies: Sequence[Topology]) -> Sequence[Planned]:
        """What `open` would declare for all of these, without asking the server."""
        ...

    async def survey(self, topologies: Sequence[Topology]) -> Sequence[Difference]:
        """What the server has against that. Changes nothing. Raises BrokerUnavailable, or ConfigurationError (credentials)."""
        ...

    async def apply(self, topologies: Sequence[Topology]) -> None:
        """Declare what is missing, widen what is too narrow; nothing is deleted or narrowed. Raises like `open`."""
        ...
