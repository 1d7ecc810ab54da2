"""The transition table and the derived states as text, diagram and page: what people read is drawn from what runs.

`docs/states.md` is `page()`, written by `docs/generate.py`; `saga-choreo states` prints the others. Nothing here is written
by hand that the code could say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args
from uuid import UUID

from saga_choreo.core.facts import Fact
from saga_choreo.core.states import end_state, saga_state, step_state
from saga_choreo.core.transitions import TABLE
from saga_choreo.model.record import ORIGIN, Record, Row
from saga_choreo.model.states import Cause, Outcome, Parked, State

__all__ = ["Line", "lines", "mermaid", "page", "text", "word"]

ORIGIN_STATES = (State.OPEN, State.COMPLETED, State.ABORTING, State.ABORTED, State.REFUSED)
STEP_STATES = tuple(state for state in State if state not in ORIGIN_STATES)


class Line(NamedTuple):
    """One rule: in this state, this fact leads to one of these states. Without any, the fact is refused and says why."""

    rule: str
    state: State
    fact: str
    to: tuple[State, ...]

    @property
    def ends(self) -> str:
        return ", ".join(map(word, self.to)) or "(refused)"


def word(state: State) -> str:
    return state.name.lower()


def _named(fact: type) -> str:
    """`DoneCame` as `done came`."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in fact.__name__).strip()


def lines(*, origin: bool) -> tuple[Line, ...]:
    """The rules of the origin row, or those of a step's row, by state, in the order of the table."""
    wanted = ORIGIN_STATES if origin else STEP_STATES
    found = [Line(rule.number, state, _named(fact), rule.to) for (state, fact), rule in TABLE.items() if state in wanted]
    return tuple(sorted(found, key=lambda line: wanted.index(line.state)))


def mermaid(*, origin: bool) -> str:
    """A state diagram: one arrow per pair of states, with the facts that lead along it. What changes no state is left out."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for line in lines(origin=origin):
        for end in line.to:
            if end is not line.state:
                arrows.setdefault((line.state, end), []).append(line.fact)
    begins = (State.OPEN, State.REFUSED) if origin else (State.WAITING,)
    ends = {end for _, end in arrows} - {begin for begin, _ in arrows}
    drawn = ["stateDiagram-v2", *(f"    [*] --> {word(state)}" for state in begins)]
    drawn += [f"    {word(begin)} --> {word(end)} : {', '.join(facts)}" for (begin, end), facts in arrows.items()]
    return "\n".join([*drawn, *(f"    {word(state)} --> [*]" for state in State if state in ends)])


def text() -> str:
    """Both tables, in columns."""
    rows = [("RULE", "STATE", "FACT", "TO")]
    rows += [(one.rule, word(one.state), one.fact, one.ends) for origin in (False, True) for one in lines(origin=origin)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)), row[3]]) for row in rows)


def _table(titles: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    shown = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in shown)


def _rules(*, origin: bool) -> str:
    rows = ((one.rule, word(one.state), one.fact, one.ends) for one in lines(origin=origin))
    return _table(("rule", "state", "fact", "to"), iter(rows))


def _facts() -> str:
    rows = ((_named(fact), " ".join((fact.__doc__ or "").split())) for fact in get_args(Fact))
    return _table(("fact", "what has happened"), iter(rows))


def _step_states() -> str:
    """Every state of a step's record with the word people see; where it depends, on what."""
    variants: tuple[dict[str, Any], ...] = ({}, {"parked": Parked.PARKED}, {"abort": True}, {"vetoer": True})
    said = ("", "parked", "to be undone", "it was this step that refused")

    def rows() -> Iterator[Sequence[str]]:
        for state in STEP_STATES:
            usual = step_state(Row(state=state))
            yield word(state), "", usual.value
            for changes, when in zip(variants, said, strict=True):
                seen = step_state(Row(state=state)._replace(**changes))
                if seen is not usual:
                    yield word(state), when, seen.value

    return _table(("record", "if", "step state"), rows())


def _end_states() -> str:
    rows = [
        (outcome.value, cause.value or "any", end_state(outcome, cause).value)
        for outcome, cause in (
            (Outcome.COMPLETED, Cause.NONE),
            (Outcome.FAILED, Cause.NONE),
            *((Outcome.ABORTED, cause) for cause in Cause if cause),
        )
    ]
    return _table(("outcome", "first cause", "saga state"), iter(rows))


def _record(step: int, row: Row) -> Record:
    return Record(service="s", saga_id=UUID(int=0), definition="", step=step, row=row, choreography="c", origin="s")


def _open_states() -> str:
    """Sagas without an outcome, by what is known of them: the first line that fits counts."""
    opened, waiting = _record(ORIGIN, Row(state=State.OPEN)), _record(0, Row())
    cases = (
        ("the origin row is aborting, or a record is to be undone", (waiting, _record(1, Row(state=State.DONE, abort=True)))),
        ("a step runs here, or is parked", (opened, _record(1, Row(state=State.RUNNING)))),
        ("a step here is done or skipped", (opened, _record(1, Row(state=State.DONE)))),
        ("only steps of this service are known, and they wait", (waiting,)),
        ("it was started here, and no step of it is here yet", (opened,)),
        ("it was started here, and its steps here wait", (opened, waiting)),
    )
    return _table(("known here", "saga state"), iter((what, saga_state(records).value) for what, records in cases))


def page() -> str:
    """The whole of `docs/states.md`."""
    return _PAGE.format(
        step_diagram=mermaid(origin=False),
        step_rules=_rules(origin=False),
        origin_diagram=mermaid(origin=True),
        origin_rules=_rules(origin=True),
        facts=_facts(),
        letters=", ".join(f"{state.value} {word(state)}" for state in State),
        step_states=_step_states(),
        end_states=_end_states(),
        open_states=_open_states(),
    )


_PAGE = """\
<!-- Written by docs/generate.py from saga_choreo/core/transitions.py and core/states.py; do not edit. -->
# States

Each step of a saga is one *record* at the service that owns it, and the service that started the saga holds one more, the
*origin row*. What happens to a record is a *fact*; one table says what becomes of it. Agents, simulator and model checker run
this table ([transitions.py](../saga_choreo/core/transitions.py)), and this page is drawn from it:

```console
$ saga-choreo states
$ saga-choreo states -o mermaid
```

A pair of state and fact that is not in the table changes nothing: messages may come twice, late and in any order. "(refused)"
means that whoever asked is told why. Rule numbers are the ones that comments in the code use.

## A step's record

```mermaid
{step_diagram}
```

{step_rules}

`waiting` is also what a record that does not exist yet counts as. `tomb` is a step that will never run, whatever comes later.
A parked step keeps its state; it is a mark on the record, as are "pending" and "to be undone". In stores, counter-examples and
simulations states are letters: {letters}.

## The origin row

```mermaid
{origin_diagram}
```

{origin_rules}

## Facts

{facts}

## What people see

A participant knows its own steps only; the saga's end is known to all, since the origin tells it. Step states:

{step_states}

A step that waits for nothing any more but its turn is `running` too, where the definition is at hand.

A saga that has ended (`failed` is an end with a debt: an undo was waived):

{end_states}

A saga that has not ended, as far as this service knows; the first line that fits counts:

{open_states}
"""
