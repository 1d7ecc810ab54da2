"""When things are due: leases of attempts, deadlines, and the waits between repeated announcements, as records keep them.

Worked out from what was committed before, and never by the arithmetic of the product. A lease only says when to begin again: two
attempts at once, or one that nobody takes over, break no safety, and would stay unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from saga_choreo.model.record import ORIGIN, Record, RecordKey, Row
from saga_choreo.model.states import Cancel, Outcome, Parked, State
from saga_choreo.runtime.declare.options import StepOptions
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.simulator.ledger import Ledger
from saga_choreo.testing.simulator.world import World

__all__ = ["Times"]

# Clocks differ by two seconds.
_SKEW_MS = 2100
_ALMOST_MS = 5
# What may keep an agent from handing back, and for how long.
_HURTS = frozenset({"store_error", "store_slow", "store_cut", "commit_refused", "commit_unknown"})
_STOP_S = 10.0
_TRIES = frozenset({State.WAITING, State.RUNNING, State.COMPENSATING})


class Times:
    """Of one world. `options` are those the steps were given."""

    def __init__(self, world: World, options: Mapping[tuple[str, int], StepOptions], limits: Limits) -> None:
        self._world = world
        self._options = options
        self._limits = limits
        # Who has begun the attempt that runs, as far as the world can tell.
        self._runners: dict[RecordKey, object] = {}

    def _broken(self, code: str, ledger: Ledger, record: Record, text: str) -> None:
        self._world.broken(code, f"{ledger.name(record.step)} {text}", ledger.number)

    def committed(self, ledger: Ledger, old: Record | None, new: Record) -> None:
        if new.lease_ms is not None or (old is not None and old.lease_ms is not None):
            self._leased(ledger, old, new)
        if new.deadline_ms is not None or new.deadline_own_ms is not None:
            self._watched(ledger, old, new)
        if new.nudges:
            self._nudged(ledger, old, new)

    def stopped(self, agent: object, records: Iterable[Record]) -> None:
        """An agent has stopped in peace: what it had begun is settled or handed back, and need not wait for the end of its lease."""
        world = self._world
        if any(name in _HURTS and when > world.now_s() - _STOP_S for (name, _), when in reversed(world.faults.happened)):
            return
        for record in records if world.cut_until_s < world.now_s() - _STOP_S else ():
            row = record.row
            is_open = row.state in _TRIES and row.parked is Parked.NO and not row.pending and record.lease_ms is not None
            if not is_open or self._options[record.definition, record.step].unsafe_external:
                continue
            if self._runners.get(record.record_key) is agent:
                world.broken(
                    "STOP", f"attempt {row.attempt} of step {record.step} of saga {record.key} was not handed back by its agent"
                )

    def _leased(self, ledger: Ledger, old: Record | None, new: Record) -> None:
        before, row = Row() if old is None else old.row, new.row
        lease_ms = None if old is None else old.lease_ms
        if new.lease_ms is not None and row.state in _TRIES:
            if row.attempt > before.attempt:
                self._begun(ledger, lease_ms, before, new)
            elif lease_ms is None:
                self._broken("LEASE", ledger, new, "has a lease, and no attempt has begun")
            elif new.lease_ms != lease_ms:
                self._renewed(ledger, lease_ms, new)
            self._woken(ledger, new)
        elif old is not None and lease_ms is not None:
            is_same = (row.state, row.attempt, row.parked, row.pending) == (before.state, before.attempt, Parked.NO, False)
            if is_same and row.state in _TRIES and not new.error:
                self._broken("L4", ledger, new, f"counts attempt {row.attempt}, which ended without an answer and was handed back")

    def _begun(self, ledger: Ledger, lease_ms: int | None, before: Row, new: Record) -> None:
        """An attempt begins: not while the one before may still run, and with a lease that grows with those that were lost."""
        assert new.lease_ms is not None
        self._runners[new.record_key] = self._world.who()
        if lease_ms is not None and lease_ms - new.changed_ms > _SKEW_MS:
            text = (
                f"begins attempt {new.row.attempt} while the lease of the one before runs for {lease_ms - new.changed_ms} ms more"
            )
            self._broken("LEASE", ledger, new, text)
        limits, timeout_s = self._limits, self._options[new.definition, new.step].timeout_s or self._limits.slow_timeout_s
        lost = 0 if lease_ms is None else min(before.attempt, 10)
        wanted_ms = 1000 * min(limits.lease_s * 2**lost, max(limits.lease_s, 1.5 * timeout_s))
        if abs(new.lease_ms - new.changed_ms - wanted_ms) > _ALMOST_MS:
            self._broken("LEASE", ledger, new, f"has a lease of {new.lease_ms - new.changed_ms} ms, not of {wanted_ms:g}")

    def _renewed(self, ledger: Ledger, lease_ms: int, new: Record) -> None:
        assert new.lease_ms is not None
        longest_ms = 1000 * self._limits.lease_s + _ALMOST_MS
        if new.lease_ms < lease_ms or new.lease_ms - new.changed_ms > longest_ms:
            self._broken("LEASE", ledger, new, f"has its lease renewed from {lease_ms} to {new.lease_ms} at {new.changed_ms}")
        if self._runners.get(new.record_key) is not self._world.who():
            self._broken("LEASE", ledger, new, "has its lease renewed by an agent that does not run its attempt")

    def _woken(self, ledger: Ledger, new: Record) -> None:
        """While an attempt is under way, the record is due when its lease ends, or at a deadline."""
        row = new.row
        assert new.lease_ms is not None
        # One that is over may be followed by an attempt that has to wait for its turn.
        if new.lease_ms <= new.changed_ms or row.parked is not Parked.NO or row.pending:
            return
        if self._options[new.definition, new.step].unsafe_external:  # handed back, it keeps its lease as a sign of the call
            return
        deadlines = [at for at in (new.deadline_ms, new.deadline_own_ms) if at is not None]
        if new.due_ms != new.lease_ms and new.due_ms not in deadlines:
            self._broken("LEASE", ledger, new, f"is under way until {new.lease_ms}, and due at {new.due_ms}")

    def _watched(self, ledger: Ledger, old: Record | None, new: Record) -> None:
        """L3: whoever can still refuse for a deadline will notice it, and a deadline does not move."""
        row, step = new.row, ledger.plan.step(new.step)
        if new.step == ORIGIN or row.outcome is not Outcome.OPEN:
            return
        due_ms = new.due_ms if new.due_ms is not None else float("inf")
        waits = row.state is State.WAITING
        if waits and step.may_veto and not row.cancel & Cancel.HEARD and new.deadline_ms is not None and due_ms > new.deadline_ms:
            self._broken("L3", ledger, new, "would not notice that the saga's deadline passes")
        own_ms = new.deadline_own_ms
        if own_ms is None:
            return
        if old is not None and old.deadline_own_ms is not None and own_ms != old.deadline_own_ms:
            self._broken("L3", ledger, new, f"has put off its own deadline by {own_ms - old.deadline_own_ms} ms")
        ready = waits and row.parked is not Parked.HUMAN and row.done_in | row.skip_in == step.all_in
        asks = row.pending if step.deadline_choice else False
        if ((ready and (step.may_veto or step.optional or step.deadline_choice)) or asks) and due_ms > own_ms:
            self._broken("L3", ledger, new, "would not notice that its own deadline passes")

    def _nudged(self, ledger: Ledger, old: Record | None, new: Record) -> None:
        """L6: what is said again is said more and more seldom, until something changes."""
        before = None if old is None else old.row
        if new.row != before:
            self._broken("L6", ledger, new, f"has changed, and goes on with repeated announcement {new.nudges}")
        limits, at_ms = self._limits, new.due_ms
        said = old is not None and new.nudges == old.nudges + 1
        if not said or at_ms is None or at_ms in (new.deadline_ms, new.deadline_own_ms):
            return
        least_s = 0.75 * min(limits.nudge_first_s * 2**new.nudges, limits.nudge_max_s)
        # By the clock of whoever says it again, it was due by then.
        wait_s = (at_ms - old.due_ms + _ALMOST_MS) / 1000 if old is not None and old.due_ms is not None else least_s
        if wait_s < least_s:
            self._broken(
                "L6", ledger, new, f"repeats announcement {new.nudges} again in {wait_s:.1f} s, at least {least_s:g} are due"
            )
