"""How an agent process is, at a glance: for readiness probes, dashboards and people. From memory only, so it always answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from saga_choreo.ports.broker import Connection, TellsOfConnection
from saga_choreo.runtime.gates import BreakerView
from saga_choreo.runtime.session import Session

__all__ = ["Health", "health_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`is_open`: store and broker were reached and the agent has not stopped. `is_connected`: the broker's connection is up; it was
    lost `connection_losses` times. `is_consuming`: it takes messages, and the last batch was worked on. `batches` and `attempts` are
    in flight in the fast and the slow lane. `unmarked`: records whose publication is not yet written down in the store. The broker did
    not take `refused` messages as they were, and did not answer to `unconfirmed`; both are tried again. `is_durable`: what the store
    has confirmed survives a crash of its machine. `parked` steps wait for a person, and the longest waiting record has been due for
    `waiting_s`, as of some seconds ago. `suspicion`: why the store is taken to have gone back in time; then nothing is worked on until
    a person accepts it. `replays`: jobs that this process carries out."""

    is_open: bool = False
    is_connected: bool = False
    connection_losses: int = 0
    is_consuming: bool = False
    is_durable: bool = False
    batches: int = 0
    attempts: int = 0
    unmarked: int = 0
    refused: int = 0
    unconfirmed: int = 0
    parked: int = 0
    waiting_s: float = 0.0
    suspicion: str = ""
    replays: int = 0
    breakers: Mapping[str, BreakerView] = field(default_factory=dict[str, BreakerView])


def health_of(session: Session | None) -> Health:
    if session is None:
        return Health()
    broker = session.broker
    connection = broker.connection if isinstance(broker, TellsOfConnection) else Connection(is_up=True)
    return Health(
        is_open=True,
        is_connected=connection.is_up,
        connection_losses=connection.losses,
        is_consuming=session.is_working and connection.is_up and session.consumer.is_well,
        is_durable=session.store.features.durable,
        batches=session.consumer.in_flight,
        attempts=session.timers.running,
        unmarked=len(session.relay.announced),
        refused=session.relay.refused,
        unconfirmed=session.relay.unconfirmed,
        parked=session.standing.parked,
        waiting_s=session.standing.waiting_s,
        suspicion=session.epochs.suspicion,
        replays=session.replays.running if session.replays is not None else 0,
        breakers=session.gates.breakers(),
    )
