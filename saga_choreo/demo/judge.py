"""The judge: were the effects in the services' ledgers the right ones, once each, in the right order?

Pure, and independent of what the agents say: the only input about what happened is rows that the services' handlers wrote
themselves. What an agent reports as a saga's end is compared with them, never trusted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from saga_choreo.demo.story import StepOf

__all__ = ["DO", "UNDO", "Effect", "Verdict", "judge"]

DO = "do"
UNDO = "undo"


@dataclass(frozen=True, slots=True)
class Effect:
    """One ledger row. `service` is whose database it was found in."""

    service: str
    saga_id: str
    step: str
    effect: str
    at_ns: int
    wall_ns: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`faults` by saga id, in words; `repeated_effects` counts rows beyond the first per saga, step and effect."""

    faults: Mapping[str, tuple[str, ...]]
    repeated_effects: int

    @property
    def wrong(self) -> int:
        """How many sagas are wrong."""
        return len(self.faults)


def judge(chain: Sequence[StepOf], refused_by: Mapping[str, str], states: Mapping[str, str], rows: Iterable[Effect]) -> Verdict:
    """`refused_by`: every saga that was started -> the step that had to refuse it, or "". `states`: saga -> its reported end;
    a saga without one did not end."""
    by_saga: dict[str, list[Effect]] = defaultdict(list)
    for row in rows:
        by_saga[row.saga_id].append(row)
    faults: dict[str, tuple[str, ...]] = {}
    for saga_id, refuser in refused_by.items():
        found = [*_state_faults(refuser, states.get(saga_id, "")), *_effect_faults(chain, refuser, by_saga.get(saga_id, []))]
        if found:
            faults[saga_id] = tuple(found)
    for saga_id in by_saga.keys() - refused_by.keys():
        faults[saga_id] = (f"nobody started this saga, and it has {len(by_saga[saga_id])} effects",)
    return Verdict(faults, sum(_surplus(effects) for effects in by_saga.values()))


def _surplus(effects: Sequence[Effect]) -> int:
    return len(effects) - len({(row.step, row.effect) for row in effects})


def _state_faults(refuser: str, state: str) -> list[str]:
    wanted = "compensated" if refuser else "completed"
    if not state:
        return [f"it did not end; it had to end {wanted}"]
    return [] if state == wanted else [f"it is reported as {state}; it had to end {wanted}"]


def _effect_faults(chain: Sequence[StepOf], refuser: str, effects: Sequence[Effect]) -> list[str]:
    return [*_count_faults(chain, refuser, effects), *_place_faults(chain, effects), *_order_faults(chain, effects)]


def _wanted(chain: Sequence[StepOf], refuser: str) -> Counter[tuple[str, str]]:
    names = [step.name for step in chain]
    done = names[: names.index(refuser)] if refuser else names
    return Counter([(name, DO) for name in done] + [(name, UNDO) for name in done if refuser])


def _count_faults(chain: Sequence[StepOf], refuser: str, effects: Sequence[Effect]) -> list[str]:
    wanted, found = _wanted(chain, refuser), Counter((row.step, row.effect) for row in effects)
    return [
        f"{effect} of {step}: {found[step, effect]} times instead of {wanted[step, effect]}"
        for step, effect in sorted(wanted.keys() | found.keys())
        if found[step, effect] != wanted[step, effect]
    ]


def _place_faults(chain: Sequence[StepOf], effects: Sequence[Effect]) -> list[str]:
    owners = {step.name: step.service for step in chain}
    return [
        f"{row.effect} of {row.step} is in the database of {row.service}, which does not own the step"
        for row in effects
        if owners.get(row.step, row.service) != row.service
    ]


def _order_faults(chain: Sequence[StepOf], effects: Sequence[Effect]) -> list[str]:
    """Doing goes along the chain, undoing back, and nothing is undone before it is done; all by the rows' monotonic time."""
    at: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in effects:
        at[row.step, row.effect].append(row.at_ns)
    names = [step.name for step in chain]
    must_follow = [((name, UNDO), (name, DO)) for name in names]
    for before, after in ((a, b) for n, a in enumerate(names) for b in names[n + 1 :]):
        must_follow += [((after, DO), (before, DO)), ((before, UNDO), (after, UNDO)), ((before, UNDO), (after, DO))]
    return [
        f"{later[1]} of {later[0]} came before {earlier[1]} of {earlier[0]}"
        for later, earlier in must_follow
        if at[later] and at[earlier] and min(at[later]) <= max(at[earlier])
    ] + [f"{name} was undone and never done" for name in names if at[name, UNDO] and not at[name, DO]]
