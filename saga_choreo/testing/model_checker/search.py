"""Breadth-first search over all states of a world, with parent pointers, then the backward pass for liveness.

Breadth first, so that the first violation found is one of the shortest. The search stops there: what follows a broken state
says nothing. Liveness (L0, L1): from every state a legal end must be reachable by what a fair execution does in the end,
counting only messages that some record still implies; whatever was merely possible (a cancel, a time-out) does not help.
"""

from __future__ import annotations

from array import array

from saga_choreo.model.states import State
from saga_choreo.testing.model_checker.cells import Cell
from saga_choreo.testing.model_checker.invariants import Digest, Invariants, digest_of
from saga_choreo.testing.model_checker.options import SearchTooLarge
from saga_choreo.testing.model_checker.world import Move, World

__all__ = ["Broken", "Search"]


class Broken(Exception):
    """An invariant does not hold in state number `at`, or after the move that left it."""

    def __init__(self, what: str, at: int, move: Move | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.at = at
        self.move = move


class Search:
    """One exhaustive search. `run()` raises Broken at the first violation and SearchTooLarge at the limit of states."""

    def __init__(self, world: World, invariants: Invariants, states_max: int) -> None:
        self.world = world
        self.states: list[int] = []
        self.parents = array("i")
        self.transitions = 0
        self.completed: set[tuple[str, ...]] = set()
        self.aborted: set[tuple[str, ...]] = set()
        self._invariants = invariants
        self._states_max = states_max
        self._numbers: dict[int, int] = {}
        self._ends = bytearray()
        self._edges_from = array("I")
        self._edges_to = array("I")
        self._digests: list[list[int]] = [[] for _ in world.units]
        self._digest_numbers: dict[tuple[Digest, ...], int] = {}
        self._digest_list: list[tuple[Digest, ...]] = []
        self._judged: dict[tuple[int, ...], tuple[str, bool]] = {}
        self._effects: dict[object, str] = {}

    def run(self) -> None:
        for start in self.world.starts():
            self._visit(start, -1)
        self._explore()
        self._look_back()

    def _explore(self) -> None:
        world, numbers, states = self.world, self._numbers, self.states
        units, forget = world.units, world.options.forget
        edges_from, edges_to = self._edges_from, self._edges_to
        at = 0
        while at < len(states):
            state = states[at]
            said = 0
            for unit in units:
                said |= unit.said[unit.number_in(state)]
            for unit in units:
                view = state & unit.view
                moves = unit.moves.get(view)
                if moves is None:
                    moves = unit.moves[view] = world.moves(unit, view)
                for move in moves:
                    add, emit, carriers, must, effects, alarm, _ = move
                    after = (state + add) | emit
                    if after == state and not alarm:
                        continue
                    self.transitions += 1
                    if effects or alarm:
                        self._judge_move(at, move)
                    number = numbers.get(after)
                    if number is None:
                        number = self._visit(after, at)
                    if must or carriers & said:
                        edges_from.append(at)
                        edges_to.append(number)
            if forget and not state & world.late:
                self.transitions += 1
                if state | world.late not in numbers:
                    self._visit(state | world.late, at)
            at += 1

    def _visit(self, state: int, parent: int) -> int:
        number = len(self.states)
        if number >= self._states_max:
            raise SearchTooLarge(
                f"the search stopped at {number} states without an answer; allow fewer kinds of events or raise the limit"
            )
        self._numbers[state] = number
        self.states.append(state)
        self.parents.append(parent)
        key = self._digest_key(state)
        judged = self._judged.get(key)
        if judged is None:
            judged = self._judged[key] = self._judge(key)
        problem, is_end = judged
        if problem:
            raise Broken(problem, number)
        # Once the horizon has passed, a saga that was not over stays open and raises an alarm: only safety is claimed then.
        self._ends.append(is_end or bool(state & self.world.late))
        return number

    def _digest_key(self, state: int) -> tuple[int, ...]:
        key: list[int] = []
        for unit, digests in zip(self.world.units, self._digests, strict=True):
            number = unit.number_in(state)
            while len(digests) <= number:
                digests.append(self._digest_of(unit.steps, unit.locals[len(digests)]))
            key.append(digests[number])
        return tuple(key)

    def _digest_of(self, steps: tuple[int, ...], cells: tuple[Cell, ...]) -> int:
        digest = tuple(digest_of(cell, step, self.world.plan) for step, cell in zip(steps, cells, strict=True))
        number = self._digest_numbers.get(digest)
        if number is None:
            number = self._digest_numbers[digest] = len(self._digest_list)
            self._digest_list.append(digest)
        return number

    def _judge(self, key: tuple[int, ...]) -> tuple[str, bool]:
        parts = {
            step: digest
            for unit, number in zip(self.world.units, key, strict=True)
            for step, digest in zip(unit.steps, self._digest_list[number], strict=True)
        }
        origin = parts.pop(-1)
        steps = tuple(parts[step] for step in sorted(parts))
        problem = self._invariants.of_state(origin, steps)
        is_end = self._invariants.is_end(origin, steps)
        if is_end and all(digest.finished for digest in steps) and not origin.gone:
            vector = tuple(digest.state.value for digest in steps)
            if origin.state is State.COMPLETED:
                self.completed.add(vector)
            elif origin.unmade:
                self.aborted.add(vector)
        return problem, is_end

    def cells_in(self, state: int) -> tuple[Cell, ...]:
        """The cells of all steps, in the order of the plan."""
        cells = {
            step: cell
            for unit in self.world.units
            for step, cell in zip(unit.steps, unit.cells_in(state), strict=True)
            if step >= 0
        }
        return tuple(cells[step] for step in sorted(cells))

    def _judge_move(self, at: int, move: Move) -> None:
        if move.alarm:
            raise Broken(move.alarm if move.alarm.startswith("L0: ") else f"ALARM: {move.alarm}", at, move)
        state = self.states[at]
        key = (move.effects, *(unit.number_in(state) for unit in self.world.units))
        problem = self._effects.get(key)
        if problem is None:
            cells = self.cells_in(state)
            found = (self._invariants.of_effect(step, old, new, cells) for step, old, new in move.effects)
            problem = self._effects[key] = next(filter(None, found), "")
        if problem:
            raise Broken(problem, at, move)

    def _look_back(self) -> None:
        """Mark every state from which a legal end can be reached; edges mostly lead to later states, so few passes are needed."""
        good, sources, targets = bytearray(self._ends), self._edges_from, self._edges_to
        changed = True
        while changed:
            changed = False
            for edge in range(len(sources) - 1, -1, -1):
                if good[targets[edge]] and not good[sources[edge]]:
                    good[sources[edge]] = 1
                    changed = True
        hopeless = good.find(0)
        if hopeless >= 0:
            raise Broken("L1: no legal end can be reached any more", hopeless)
