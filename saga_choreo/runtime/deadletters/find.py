"""Dead letters of one store, found page by page: a filter that all verbs share, groups, and single ones by id.

What a store cannot filter is filtered here, over bounded pages, so a store with a hundred thousand letters is walked in constant
memory. Newest first within a kind; messages come before steps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from saga_choreo.core.graph import Plan
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Parked
from saga_choreo.ports.letters import LetterFilter
from saga_choreo.ports.store import SagaFilter
from saga_choreo.runtime.deadletters.letter import (
    DeadLetter,
    LetterKind,
    letter_of_held,
    letter_of_quarantined,
    letter_of_step,
)
from saga_choreo.runtime.plugins import LetterStore
from saga_choreo.runtime.views import plan_from

__all__ = ["Group", "Plans", "WantedLetters", "by_ids", "groups_of", "number_in", "parked_record", "walk"]

_PAGE = 500
_STATES = ("open", "archived", "resolved", "all")
# So many messages on hold are looked at: each was told of, and goes by itself once its definition comes.
_HELD_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedLetters:
    """Which dead letters; an empty field matches all. `saga` is an id or a business key, `group` a fingerprint or its beginning,
    `error` is looked for in code and detail; the times are those of the last failure, in Unix milliseconds. `state`: 'open' also
    finds messages that wait and steps that a person has; 'all' finds every one."""

    service: str = ""
    kind: str = ""
    saga: str = ""
    step: str = ""
    group: str = ""
    error: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    state: str = "open"

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, ("", *LetterKind)), ("state", self.state, _STATES)):
            if value not in known:
                raise ValueError(f"dead letters have no {name} {value!r}; use one of: {', '.join(filter(None, known))}")

    @property
    def is_everything(self) -> bool:
        return self == WantedLetters(state=self.state)

    def matches(self, letter: DeadLetter) -> bool:
        state = "open" if letter.state in ("waiting", "taken") else letter.state
        return (
            self.service in ("", letter.service)
            and self.kind in ("", letter.kind)
            and self.saga in ("", letter.saga_id, letter.key)
            and self.step in ("", letter.step)
            and letter.group.startswith(self.group)
            and self.error.lower() in f"{letter.code}: {letter.detail}".lower()
            and (self.since_ms is None or letter.last_ms >= self.since_ms)
            and (self.until_ms is None or letter.last_ms < self.until_ms)
            and self.state in ("all", state)
        )

    def in_words(self) -> str:
        said = {"service": self.service, "kind": self.kind, "saga": self.saga, "step": self.step, "group": self.group}
        times = {"since": self.since_ms, "until": self.until_ms}
        all_said = {**said, "error": self.error, **{name: str(ms) for name, ms in times.items() if ms is not None}}
        return " ".join(f"{name}={value}" for name, value in all_said.items() if value) or "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Dead letters with the same fault. `first` is one of them, the newest."""

    group: str
    count: int
    first_ms: int
    last_ms: int
    newest: DeadLetter


class Plans:
    """The store's definitions, read once."""

    def __init__(self, definitions: Mapping[str, bytes]) -> None:
        self._definitions = definitions
        self._plans: dict[str, Plan | None] = {}

    def get(self, definition: str) -> Plan | None:
        if definition not in self._plans:
            self._plans[definition] = plan_from(self._definitions, definition)
        return self._plans[definition]


async def walk(store: LetterStore, wanted: WantedLetters) -> AsyncIterator[DeadLetter]:
    """Every dead letter that matches."""
    if wanted.kind in ("", LetterKind.MESSAGE):
        async for letter in _messages(store, wanted):
            yield letter
    if wanted.kind in ("", LetterKind.STEP) and wanted.state in ("open", "all"):
        async for letter in _steps(store, wanted):
            yield letter


async def _messages(store: LetterStore, wanted: WantedLetters) -> AsyncIterator[DeadLetter]:
    before: int | None = None
    state = "" if wanted.state == "all" else wanted.state
    while True:
        page = await store.letters(LetterFilter(service=wanted.service, state=state, before=before, limit=_PAGE))
        for one in page:
            if wanted.matches(letter := letter_of_quarantined(one)):
                yield letter
        if len(page) < _PAGE:
            break
        before = page[-1].number
    if wanted.state in ("open", "all"):
        for held in await store.waiting(wanted.service, _HELD_MAX):
            if wanted.matches(letter := letter_of_held(held)):
                yield letter


async def _steps(store: LetterStore, wanted: WantedLetters) -> AsyncIterator[DeadLetter]:
    plans = Plans(await store.definitions())
    before: UUID | None = None
    while True:
        groups = await store.sagas(SagaFilter(service=wanted.service, limit=_PAGE, before=before, parked=True))
        for record in (record for group in groups for record in group):
            if record.row.parked is not Parked.NO and wanted.matches(
                letter := letter_of_step(record, plans.get(record.definition))
            ):
                yield letter
        if len(groups) < _PAGE:
            break
        before = groups[-1][0].saga_id


async def by_ids(store: LetterStore, ids: Sequence[str]) -> dict[str, DeadLetter]:
    """Those that are there, by id."""
    found: dict[str, DeadLetter] = {}
    numbers = [number for one in ids if (number := number_in(one)) is not None]
    for start in range(0, len(numbers), _PAGE):
        some = tuple(numbers[start : start + _PAGE])
        found |= {f"m{one.number}": letter_of_quarantined(one) for one in await store.letters(LetterFilter(numbers=some))}
    if any(one.startswith("h") and one[1:].isdecimal() for one in ids):
        found |= {f"h{one.number}": letter_of_held(one) for one in await store.waiting("", _HELD_MAX) if f"h{one.number}" in ids}
    steps = [one for one in ids if ":" in one]
    plans = Plans(await store.definitions() if steps else {})
    for one in steps:
        record, plan = await parked_record(store, one, plans)
        if record is not None and record.row.parked is not Parked.NO:
            found[one] = replace(letter_of_step(record, plan), id=one)
    return {one: found[one] for one in ids if one in found}


def number_in(id_: str) -> int | None:
    """The number of a quarantined message in its id."""
    return int(id_[1:]) if id_[:1] == "m" and id_[1:].isdecimal() else None


async def parked_record(store: LetterStore, id_: str, plans: Plans, service: str = "") -> tuple[Record | None, Plan | None]:
    """The record that the id of a step names, parked or not."""
    saga, colon, name = id_.partition(":")
    if not colon:
        return None, None
    try:
        saga_id = UUID(saga)
    except ValueError:
        return None, None
    candidates: list[tuple[Record, Plan | None]] = []
    for record in await store.records(saga_id, service):
        plan = plans.get(record.definition)
        named = plan.step(record.step).name if plan is not None else str(record.step)
        if record.step != ORIGIN and named == name:
            candidates.append((record, plan))
    return min(candidates, key=lambda found: found[0].row.parked is Parked.NO, default=(None, None))


def groups_of(letters: Iterable[DeadLetter]) -> list[Group]:
    """The largest group first."""
    found: dict[str, Group] = {}
    for letter in letters:
        group = found.get(letter.group)
        if group is None:
            light = replace(letter, body=b"", inputs=())
            group = Group(group=letter.group, count=0, first_ms=letter.first_ms, last_ms=letter.last_ms, newest=light)
        newest = group.newest if group.newest.last_ms >= letter.last_ms else replace(letter, body=b"", inputs=())
        found[letter.group] = Group(
            group=letter.group,
            count=group.count + 1,
            first_ms=min(group.first_ms, letter.first_ms),
            last_ms=max(group.last_ms, letter.last_ms),
            newest=newest,
        )
    return sorted(found.values(), key=lambda group: (-group.count, -group.last_ms, group.group))
