"""Which faults happen. Each class is on or off per seed, with a rate of its own; a quarter of the time is calm; after the
healing nothing fails any more.

Every opportunity of a class that is on draws once from that class's own stream. So a single fault can be left out (when a
failing run is shrunk) without moving any other.
"""

from __future__ import annotations

from saga_choreo.testing.simulator.settings import FaultMark, Settings
from saga_choreo.testing.simulator.streams import Stream, Streams

__all__ = ["RATES", "Faults"]

# Lowest and highest rate per opportunity, where the class is on.
RATES: dict[str, tuple[float, float]] = {
    "crash": (0.001, 0.02),
    "duplicate": (0.02, 0.3),
    "delay": (0.02, 0.2),
    "hold": (0.005, 0.08),
    "publish_refused": (0.01, 0.2),
    "publish_unknown": (0.01, 0.2),
    "ack_lost": (0.01, 0.2),
    "redeliver": (0.01, 0.15),
    "commit_refused": (0.01, 0.15),
    "commit_unknown": (0.02, 0.2),
    "store_error": (0.005, 0.08),
    "store_slow": (0.01, 0.1),
    "store_cut": (0.001, 0.01),
    "step_error": (0.05, 0.4),
    "step_reject": (0.05, 0.5),
    "step_overrun": (0.01, 0.15),
    "stall": (0.01, 0.15),
    "too_long": (0.01, 0.15),
    "undo_error": (0.1, 0.9),
    "provider_lost": (0.03, 0.3),
    "provider_unknown": (0.03, 0.3),
    "provider_decline": (0.05, 0.4),
    "tell_fails": (0.01, 0.1),
    "cancel": (0.1, 0.6),
    "deadline": (0.1, 0.5),
    # Not faults, but what some steps ask for: limits, breakers, locks.
    "concurrency": (0.1, 0.7),
    "rate": (0.1, 0.6),
    "breaker": (0.1, 0.7),
    "lock": (0.1, 0.7),
    # Messages that must not count, definitions that come late, and messages that come again after the horizon.
    "stray": (0.005, 0.05),
    "late_definition": (0.05, 0.3),
    "next_week": (0.2, 0.6),
}
_ON = 0.6
_CALM = 0.25
_WINDOW_NS = 5_000_000_000
_WINDOWS = 128


class Faults:
    """`time_ns` and `healed` are kept by the world."""

    def __init__(self, streams: Streams, settings: Settings) -> None:
        swarm = streams.named("swarm")
        self._suppressed = settings.suppressed
        self.rates: dict[str, float] = {}
        self._streams: dict[str, Stream] = {}
        self._counts: dict[str, int] = {}
        for name, (low, high) in RATES.items():
            is_on, rate = swarm.chance(_ON), swarm.between(low, high)
            rate = settings.rates.get(name, rate if is_on else 0.0)
            if settings.only is not None and name not in settings.only:
                rate = 0.0
            self._set(name, rate, streams)
        self._set("loss", settings.loss if settings.only is None or "loss" in settings.only else 0.0, streams)
        self._calm = [swarm.chance(_CALM) for _ in range(_WINDOWS)]
        self.is_healed = False
        self.happened: list[tuple[FaultMark, float]] = []

    def _set(self, name: str, rate: float, streams: Streams) -> None:
        self.rates[name] = rate
        self._streams[name] = streams.named(f"fault/{name}")
        self._counts[name] = 0

    def hit(self, name: str, now_ns: int) -> float | None:
        """None, or how bad it is: a number in [0, 1)."""
        rate = self.rates[name]
        if not rate or self.is_healed:
            return None
        stream = self._streams[name]
        self._counts[name] += 1
        if stream.random() >= rate:
            return None
        severity = stream.random()
        mark = (name, self._counts[name])
        if self._calm[now_ns // _WINDOW_NS % _WINDOWS] or mark in self._suppressed:
            return None
        self.happened.append((mark, now_ns / 1e9))
        return severity
