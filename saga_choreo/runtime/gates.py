"""The limits of one agent process: a gate per step holds its bucket, its places and its circuit, and says what changes.

All of it is of this process and of this run: two agents of a service let through twice as much, and a breaker starts closed. What has to
outlive a restart is in the records: attempts, backoffs and the times held-back work is due. A breaker that starts closed costs at most
`failures` calls to find out again, and never keeps work from a service that recovered meanwhile.

Only what a step does is limited, never its undo: an abort must get through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from saga_choreo.model.breaker import BreakerState
from saga_choreo.ports.clock import Clock
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.runtime.limits import Bucket, Circuit, Places, Verdict
from saga_choreo.runtime.operations import Broke, Executed, HeldBack, Overran, Ran, Rejected

__all__ = ["BreakerView", "Gates", "Permit"]

_log = logging.getLogger("saga_choreo.step")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerView:
    """`failures` within the window; `opens_for_s` is how much longer no call is made (0 unless open)."""

    state: BreakerState
    failures: int
    opens_for_s: float


class Permit:
    """One run that was let through. `end` is called exactly once, with its answer, or None when it was cut short."""

    __slots__ = ("began_s", "end", "is_probe")

    def __init__(self, began_s: float, end: Callable[[Permit, Executed | None], None], *, is_probe: bool) -> None:
        self.began_s = began_s
        self.is_probe = is_probe
        self.end = end


class _Gate:
    """The limits of one step."""

    def __init__(self, name: str, options: StepOptions, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._bucket = None if options.rate_per_s is None else Bucket(options.rate_per_s, at_s=clock.monotonic())
        self._places = None if options.concurrency is None else Places(options.concurrency)
        self.circuit = None if options.breaker is None else Circuit(options.breaker)
        self._inside: dict[Permit, None] = {}

    def ask(self, *, waited: bool) -> Permit | Verdict:
        """All limits have to agree; one that says no costs the others nothing."""
        now_s = self._clock.monotonic()
        circuit, places, bucket = self.circuit, self._places, self._bucket
        if circuit is not None:
            circuit, said = circuit.ask(now_s)
            if said.wait_s:
                self.circuit = circuit
                return said
        if places is not None:
            oldest_s = max((now_s - permit.began_s for permit in self._inside), default=0.0)
            places, said = places.ask(now_s, oldest_s, waited=waited)
            if said.wait_s:
                self._places = places
                return said
        if bucket is not None:
            bucket, said = bucket.ask(now_s, waited=waited)
            self._bucket = bucket
            if said.wait_s:
                return said
        is_probe = circuit is not self.circuit
        self._places = places
        self._turn(circuit)
        permit = Permit(now_s, self._end, is_probe=is_probe)
        self._inside[permit] = None
        return permit

    def _end(self, permit: Permit, answer: Executed | None) -> None:
        if permit not in self._inside:
            return
        del self._inside[permit]
        now_s = self._clock.monotonic()
        if self._places is not None:
            self._places = self._places.leave(now_s - permit.began_s)
        if self.circuit is None:
            return
        match answer:
            case Ran() | Rejected(was_run=True):
                self._turn(self.circuit.worked(probe=permit.is_probe))
            case Broke():
                self._turn(self.circuit.failed(now_s, probe=permit.is_probe))
            case Overran() | HeldBack() | Rejected() | None:
                self._turn(self.circuit.unknown(probe=permit.is_probe))

    def _turn(self, circuit: Circuit | None) -> None:
        before, self.circuit = self.circuit, circuit
        if circuit is None or before is None or circuit.state is before.state:
            return
        level = logging.WARNING if circuit.state is BreakerState.OPEN else logging.INFO
        more = f" for {circuit.open_s:g} s" if circuit.state is BreakerState.OPEN else ""
        _log.log(
            level, "the circuit breaker of step %r was %s and is %s%s", self.name, before.state.value, circuit.state.value, more
        )


class Gates:
    """Gates by step name: a step that belongs to several choreographies has one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gates: dict[str, _Gate] = {}

    def expect(self, name: str, options: StepOptions) -> None:
        """Make the gate of a step that has limits, so that it is seen before its first run."""
        if options.is_limited and name not in self._gates:
            self._gates[name] = _Gate(name, options, self._clock)

    def ask(self, name: str, options: StepOptions, *, waited: bool) -> Permit | HeldBack | None:
        """A permit, which has to be ended; or when to ask again; or None for a step without limits."""
        self.expect(name, options)  # the choreography may have been learnt while the agent runs
        gate = self._gates.get(name)
        said = None if gate is None else gate.ask(waited=waited)
        if isinstance(said, Verdict):
            now_ms = self._clock.time_ns() / 1_000_000
            return HeldBack(ceil(now_ms + 1000 * said.wait_s), said.why)
        return said

    def breakers(self) -> dict[str, BreakerView]:
        now_s = self._clock.monotonic()
        return {name: _view(gate.circuit, now_s) for name, gate in sorted(self._gates.items()) if gate.circuit is not None}


def _view(circuit: Circuit, now_s: float) -> BreakerView:
    recent = sum(at_s > now_s - circuit.policy.window_s for at_s in circuit.failed_at)
    left_s = max(0.0, circuit.until_s - now_s) if circuit.state is BreakerState.OPEN else 0.0
    return BreakerView(state=circuit.state, failures=recent, opens_for_s=left_s)
