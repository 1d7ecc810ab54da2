"""The consistency check of a store: pages through what it holds, bounded, and lets `consistency` judge it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from uuid import UUID

from saga_choreo.core.graph import Plan, plan_of
from saga_choreo.errors import ConfigurationError, DefinitionError
from saga_choreo.model.choreography import Choreography
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.ports.store import SagaFilter
from saga_choreo.ports.upkeep import Upkeep
from saga_choreo.runtime.consistency import (
    Contradiction,
    Effect,
    Judged,
    judge_effects,
    judge_keys,
    judge_ledger,
    judge_locks,
    judge_saga,
)
from saga_choreo.runtime.plugins import WholeStore

__all__ = ["Checked", "check_store"]

_PAGE = 200
_LOCKS_MAX = 10_000
_MESSAGES_MAX = 1_000
# Of a saga that seems to contradict a ledger, and changes each time it is looked at.
_LOOKS_MAX = 5


@dataclass(frozen=True, slots=True)
class Checked:
    """`sagas` and `records` were looked at; `further`: there are more, older ones."""

    sagas: int
    records: int
    found: tuple[Contradiction, ...]
    further: bool


async def check_store(
    store: WholeStore, *, now_ms: int, late_ms: int, limit: int, ledger: str = "", ledger_steps: Collection[str] = ()
) -> Checked:
    """Judge the newest `limit` sagas, all locks, the keys and messages of these sagas. `ledger` is a statement of the user's that gives
    rows of (saga id, step, 'do' or 'undo'); of which steps, the user may say (`ledger_steps`), otherwise there have to be some of each
    local step that was done. What changes meanwhile is looked at again, and not named unless it then stays as it is."""
    plans = _plans(await store.definitions())
    locks = {} if not isinstance(store, Upkeep) else {(one.service, one.name): one.saga_id for one in await store.locks(_LOCKS_MAX)}
    groups, further = await _sagas(store, limit)
    services = frozenset(record.service for group in groups for record in group)
    known = Judged(plans=plans, now_ms=now_ms, late_ms=late_ms, locks=locks, services=services)
    found: list[Contradiction] = []
    for group in groups:
        if judge_saga(group, known):
            again = await store.records(group[0].saga_id)
            found += judge_saga(again, known) if _versions(group) == _versions(again) else ()
    holders = {saga_id: await store.records(saga_id) for saga_id in set(locks.values())}
    found += judge_locks(locks, holders)
    found += await _of_keys(store, groups, further=further)
    found += await _of_messages(store, {group[0].saga_id for group in groups}, plans, now_ms - late_ms)
    if ledger:
        found += await _of_ledger(store, ledger, frozenset(ledger_steps), groups, plans, further=further)
    return Checked(len(groups), sum(map(len, groups)), tuple(sorted(set(found))), further)


def _plans(definitions: Mapping[str, bytes]) -> dict[str, Plan]:
    plans: dict[str, Plan] = {}
    for definition, canonical in definitions.items():
        try:
            plans[definition] = plan_of(Choreography.from_canonical(canonical))
        except (DefinitionError, ValueError):
            continue
    return plans


async def _sagas(store: WholeStore, limit: int) -> tuple[list[Sequence[Record]], bool]:
    groups: list[Sequence[Record]] = []
    before: UUID | None = None
    while len(groups) < limit:
        page = await store.sagas(SagaFilter(limit=min(_PAGE, limit - len(groups)), before=before))
        groups += [group for group in page if group]
        if not page:
            return groups, False
        before = page[-1][0].saga_id
    return groups, bool(await store.sagas(SagaFilter(limit=1, before=before)))


async def _of_keys(store: WholeStore, groups: Sequence[Sequence[Record]], *, further: bool) -> list[Contradiction]:
    """Keys of sagas that are at least as new as the oldest that was looked at."""
    if not isinstance(store, Upkeep):
        return []
    oldest = groups[-1][0].saga_id if further and groups else UUID(int=0)
    started = {group[0].saga_id: group for group in groups}
    found: list[Contradiction] = []
    before: UUID | None = None
    while keys := await store.keys(before, _PAGE):
        wanted = [(key.service, key.key, key.saga_id) for key in keys if key.saga_id >= oldest]
        missing = {saga_id: await store.records(saga_id) for _, _, saga_id in wanted if saga_id not in started}
        found += judge_keys(wanted, {**started, **missing})
        before = keys[-1].saga_id
        if before < oldest or len(keys) < _PAGE:
            break
    return found


async def _of_messages(store: WholeStore, sagas: set[UUID], plans: dict[str, Plan], late: int) -> list[Contradiction]:
    """Messages that were put aside although their saga or their definition is here."""
    found: list[Contradiction] = []
    for letter in await store.quarantined("", _MESSAGES_MAX):
        if letter.saga_id in {str(saga_id) for saga_id in sagas}:
            detail = f"message {letter.number} of this saga is in quarantine ({letter.code}): {letter.detail}"
            found.append(Contradiction("quarantined", letter.service, letter.saga_id, "", detail))
    for service in sorted({owner for plan in plans.values() for owner in plan.owners}):
        for held in await store.held(service, sorted(plans), _MESSAGES_MAX):
            if held.received_ms < late and service in plans[held.definition].owners:
                detail = f"message {held.number} is still on hold although its definition {held.definition} is known"
                found.append(Contradiction("on_hold", service, "", "", detail))
    return found


def _versions(group: Sequence[Record]) -> dict[tuple[str, RecordKey], int]:
    return {(one.service, one.record_key): one.version for one in group}


async def _of_ledger(
    store: WholeStore,
    statement: str,
    named: frozenset[str],
    groups: Sequence[Sequence[Record]],
    plans: dict[str, Plan],
    *,
    further: bool,
) -> list[Contradiction]:
    """A step's record and its effect are written in one commit. So what the ledger says counts against records that were the same
    before and after it was read; sagas that went on meanwhile are looked at again."""
    _check_ledger(store, named, plans)
    sagas = {group[0].saga_id: group for group in groups}
    effects = await _effects(store, statement)
    steps = frozenset(effect.step for effect in effects) | named
    found = [] if named else judge_ledger(chain(*groups), plans, steps=steps)
    if further:
        effects = [effect for effect in effects if effect.saga_id in sagas]
    for _ in range(_LOOKS_MAX):
        said = judge_effects(chain(*sagas.values()), effects, plans, steps=steps)
        again = {saga_id: await store.records(saga_id) for saga_id in {UUID(one.saga) for one in said}}
        same = {saga_id for saga_id, group in again.items() if _versions(sagas.get(saga_id, ())) == _versions(group)}
        found += [one for one in said if UUID(one.saga) in same]
        # One without records was forgotten meanwhile.
        sagas = {saga_id: group for saga_id, group in again.items() if group and saga_id not in same}
        if not sagas:
            break
        effects = [effect for effect in await _effects(store, statement) if effect.saga_id in sagas]
    return found


def _check_ledger(store: WholeStore, named: frozenset[str], plans: dict[str, Plan]) -> None:
    if not store.features.sql or not store.features.user_transaction:
        raise ConfigurationError(
            f"the {store.features.name} store has no SQL, so there is no ledger to read in it; leave out --ledger"
        )
    known = {step.name for plan in plans.values() for step in plan.steps}
    if named - known:
        raise ConfigurationError(
            f"no definition in this store has a step {min(named - known)!r}; steps known here: {', '.join(sorted(known)) or 'none'}; "
            "check --ledger-step"
        )


async def _effects(store: WholeStore, statement: str) -> list[Effect]:
    async with store.transaction() as transaction:
        rows = await transaction.user.fetch(statement)  # rolled back: a look changes nothing
    try:
        return [Effect(UUID(str(row[0])), str(row[1]), str(row[2])) for row in rows]
    except (ValueError, IndexError, TypeError) as error:
        raise ConfigurationError(
            f"the ledger's statement gives rows that are not (saga id, step, 'do' or 'undo'): {error}; name these three columns"
        ) from error
