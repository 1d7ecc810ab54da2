"""States of the whole saga as one integer each, and the moves between them.

A state is a cell number per participant (its records and their ghosts) in fixed bit fields, and above them one bit per
message that was ever emitted. Messages are never taken away, which stands for any delay, duplication and reordering.
Everything that can happen is local to one participant and depends only on its own field and on the messages addressed to
it: so moves are worked out once per such view and then applied to whole states by an addition and an OR.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from saga_choreo.core.emissions import Message, emissions
from saga_choreo.core.facts import Fact
from saga_choreo.core.graph import Plan
from saga_choreo.core.origin import cancel_before_start, opened
from saga_choreo.core.routing import facts_for
from saga_choreo.core.stale import stale_answer
from saga_choreo.model.envelope import MessageKind
from saga_choreo.model.record import ORIGIN, ORIGIN_NAME
from saga_choreo.model.states import Cause, State
from saga_choreo.testing.model_checker.actions import actions, applied
from saga_choreo.testing.model_checker.cells import NOTHING, Cell, has_record
from saga_choreo.testing.model_checker.options import Options

__all__ = ["Move", "Unit", "World"]

_FIELD = 20
_FIELD_MASK = (1 << _FIELD) - 1


class Move(NamedTuple):
    """`add` and `emit` make the next state: (state + add) | emit. `carriers`: the message bits any of which causes it.
    `must`: a fair execution does it without a message. `effects`: (step, cell before, cell after) where an effect happened."""

    add: int
    emit: int
    carriers: int
    must: bool
    effects: tuple[tuple[int, Cell, Cell], ...]
    alarm: str
    label: str


Locals = tuple[Cell, ...]
# What one happening does to a participant: the number of its new cells, messages said besides what those imply, an alarm.
_Became = tuple[int, int, str]


class Unit:
    """One participant: its steps, and what was worked out of its part of the states."""

    def __init__(self, place: int, service: str, steps: tuple[int, ...]) -> None:
        self.service = service
        self.steps = steps
        self.shift = place * _FIELD
        self.view = _FIELD_MASK << self.shift
        self.numbers: dict[Locals, int] = {}
        self.locals: list[Locals] = []
        self.said: list[int] = []
        self.moves: dict[int, tuple[Move, ...]] = {}
        self.received: dict[tuple[int, int, bool], _Became] = {}
        self.acted: dict[tuple[int, bool], list[tuple[_Became, bool, str]]] = {}

    def number_in(self, state: int) -> int:
        return state >> self.shift & _FIELD_MASK

    def cells_in(self, state: int) -> Locals:
        return self.locals[state >> self.shift & _FIELD_MASK]


class _Seen(NamedTuple):
    """What one participant sees: its cells by number, the messages that may arrive (number, bit), whether it is late."""

    unit: Unit
    number: int
    arrived: list[tuple[int, int]]
    late: bool


class _Cause(NamedTuple):
    carriers: int
    must: bool
    label: str


class World:
    """The participants of one choreography with the messages between them."""

    def __init__(self, plan: Plan, options: Options) -> None:
        self.plan = plan
        self.options = options
        services = [(ORIGIN_NAME, (ORIGIN,)), *((owner, tuple(s.index for s in plan.owned_by(owner))) for owner in plan.owners)]
        self.units = tuple(Unit(place, service, steps) for place, (service, steps) in enumerate(services))
        self._base = len(self.units) * _FIELD
        # Bit 0 is not a message: it says that the horizon has passed, everywhere.
        self.late = 1 << self._base
        self.messages: list[Message | None] = [None]
        self._message_bits: dict[Message, int] = {}
        for unit in self.units:
            unit.view |= self.late

    def starts(self) -> list[int]:
        """The saga was started; or, where cancels are asked for, a cancel came before the start."""
        rows = [opened(), cancel_before_start()] if self.options.cancel else [opened()]
        if not self.options.causes:
            rows = [row._replace(cause=Cause.NONE) for row in rows]
        return [self._start(Cell(row=row, unmade=int(row.state is State.REFUSED))) for row in rows]

    def _start(self, origin: Cell) -> int:
        state = 0
        for unit in self.units:
            cells = (origin,) if unit.service == ORIGIN_NAME else (NOTHING,) * len(unit.steps)
            number = self._number(unit, cells)
            state |= number << unit.shift | unit.said[number]
        return state

    def _number(self, unit: Unit, cells: Locals) -> int:
        number = unit.numbers.get(cells)
        if number is None:
            said = 0
            for step, cell in zip(unit.steps, cells, strict=True):
                if has_record(cell):
                    said |= self._bits(emissions(cell.row, self.plan.step(step), self.plan))
            number = unit.numbers[cells] = len(unit.locals)
            assert number <= _FIELD_MASK
            unit.locals.append(cells)
            unit.said.append(said)
        return number

    def _bits(self, messages: Iterable[Message]) -> int:
        bits = 0
        for message in messages:
            bit = self._message_bits.get(message)
            if bit is None:
                bit = self._message_bits[message] = 1 << (self._base + len(self.messages))
                self.messages.append(message)
                self._address(message, bit)
            bits |= bit
        return bits

    def _address(self, message: Message, bit: int) -> None:
        for unit in self.units:
            if message.service in ("", unit.service) and self._facts(message, unit):
                unit.view |= bit

    def _facts(self, message: Message, unit: Unit) -> tuple[tuple[int, Fact], ...]:
        return facts_for(message, self.plan, unit.service, is_origin=unit.service == ORIGIN_NAME)

    def moves(self, unit: Unit, view: int) -> tuple[Move, ...]:
        """Everything that can happen at one participant; `view` is a state seen through `unit.view`."""
        seen = _Seen(unit, view >> unit.shift & _FIELD_MASK, self._arrived(view), bool(view & self.late))
        found: dict[_Became, _Cause] = {}
        for place, bit in seen.arrived:
            became = self._received(unit, seen.number, place, late=seen.late)
            if became != (seen.number, 0, ""):
                known = found.get(became) or _Cause(0, False, f"{unit.service} receives {self._words(place)}")
                found[became] = known._replace(carriers=known.carriers | bit)
        for became, must, label in self._acted(unit, seen.number, late=seen.late):
            known = found.get(became) or _Cause(0, False, label)
            found[became] = known._replace(must=known.must or must)
        return tuple(self._move(seen, became, cause) for became, cause in found.items())

    def _move(self, seen: _Seen, became: _Became, cause: _Cause) -> Move:
        unit, (new, answers, alarm) = seen.unit, became
        if self.options.once and not alarm and new != seen.number:
            alarm = self._needed_again(seen, new, cause.carriers)
        effects = tuple(
            (step, old, now)
            for step, old, now in zip(unit.steps, unit.locals[seen.number], unit.locals[new], strict=True)
            if step != ORIGIN and (now.made > old.made or now.unmade > old.unmade)
        )
        add = (new - seen.number) << unit.shift
        return Move(add, unit.said[new] | answers, cause.carriers, cause.must, effects, alarm, cause.label)

    def _needed_again(self, seen: _Seen, after: int, carriers: int) -> str:
        """L0: a message that was applied, or that changed nothing, must change nothing ever after."""
        unit, before, late = seen.unit, seen.number, seen.late
        for place, bit in seen.arrived:
            spent = bit & carriers or self._received(unit, before, place, late=late)[0] == before
            if spent and self._received(unit, after, place, late=late)[0] != after:
                return f"L0: {self._words(place)} changes something again at {unit.service}, after it was applied or ignored"
        return ""

    def _arrived(self, view: int) -> list[tuple[int, int]]:
        """Number and bit of each message in a view."""
        bits = view >> (self._base + 1)
        found: list[tuple[int, int]] = []
        while bits:
            lowest = bits & -bits
            found.append((lowest.bit_length(), lowest << (self._base + 1)))
            bits ^= lowest
        return found

    def _received(self, unit: Unit, number: int, place: int, *, late: bool) -> _Became:
        """One message, applied to all steps of the participant that it concerns, in one commit."""
        known = unit.received.get((number, place, late))
        if known is None:
            known = unit.received[number, place, late] = self._receive(unit, number, place, late=late)
        return known

    def _receive(self, unit: Unit, number: int, place: int, *, late: bool) -> _Became:
        message = self.messages[place]
        assert message is not None
        after, answers, alarm = list(unit.locals[number]), 0, ""
        for step, fact in self._facts(message, unit):
            at = unit.steps.index(step)
            if self.is_stale(after[at], late=late):
                answers |= self._bits(stale_answer(message, step, self.plan) or ())
                continue
            after[at], problem = applied(after[at], fact, self.plan.step(step), self.options)
            alarm = alarm or problem
        return self._number(unit, tuple(after)), answers, alarm

    def _acted(self, unit: Unit, number: int, *, late: bool) -> list[tuple[_Became, bool, str]]:
        """What the participant may do by itself: the effect, whether a fair execution does it in the end, a label."""
        known = unit.acted.get((number, late))
        if known is None:
            known = unit.acted[number, late] = []
            cells = unit.locals[number]
            for at, step in enumerate(unit.steps):
                for action in actions(cells[at], self.plan.step(step), self.options, late=late):
                    new = self._number(unit, (*cells[:at], action.cell, *cells[at + 1 :]))
                    known.append(((new, 0, action.alarm), action.must, f"{self.plan.step(step).name}: {action.label}"))
        return known

    def is_stale(self, cell: Cell, *, late: bool) -> bool:
        """No record, and the saga is older than the horizon: the message meets the forgetting rule instead of the table."""
        return late and not has_record(cell)

    def place_of(self, number: int) -> int:
        """The bit of a message in a state."""
        return self._base + number

    def _words(self, place: int) -> str:
        message = self.messages[place]
        return "" if message is None else self.describe(message)

    def describe(self, message: Message) -> str:
        """A message in words, for a counter-example."""
        source = self.plan.step(message.source)
        match message.kind:
            case MessageKind.DONE | MessageKind.SKIP if message.event >= 0:
                return f"{message.kind.upper()} of {source.outputs[message.event].name} from {source.name}"
            case MessageKind.CLEAR:
                debt = " with a debt" if message.debt else ""
                return f"CLEAR from {source.name} to {self.plan.step(message.target).name}{debt}"
            case MessageKind.OUTCOME:
                return f"OUTCOME {message.outcome} from {source.name}"
            case _:
                return f"{message.kind.upper()} from {source.name}"
