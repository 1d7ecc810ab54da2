"""Starting sagas and asking after them: what `agent.start_saga(...)` and `agent.saga(...)` give."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import Any, cast
from uuid import UUID
from weakref import WeakKeyDictionary

from saga_choreo.codec.wire import checked_key
from saga_choreo.core.facts import CancelRequested, Refusal
from saga_choreo.core.graph import Plan
from saga_choreo.core.origin import opened
from saga_choreo.errors import DefinitionError, KeyConflict, Refused, SagaNotFound, StoreConflict, WaitTimeout
from saga_choreo.model.event import Event, EventRef
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import ORIGIN, Record
from saga_choreo.model.states import Outcome, SagaState
from saga_choreo.ports.store import BusinessKey, TellsOfCommit, Transaction
from saga_choreo.runtime.budgets import Budgets
from saga_choreo.runtime.catalog import Known
from saga_choreo.runtime.declare.payload import encode
from saga_choreo.runtime.driver import Driver
from saga_choreo.runtime.saying import publications_of
from saga_choreo.runtime.session import Session
from saga_choreo.runtime.telling import Watched
from saga_choreo.runtime.together import Together
from saga_choreo.runtime.views import SagaView, view_of
from saga_choreo.runtime.workspace import Workspace

__all__ = ["SagaHandle", "Start", "find", "start", "started_by"]

_LOOK_FIRST_S = 0.1
_LOOK_MAX_S = 1.0
# For an agent that serves: it misses only what another process of its service records.
_LOOK_SERVING_MAX_S = 8.0
# Of a session's waiters: ten thousand of them must not take the connections that the work on their sagas needs. Who finds so many
# looking waits for another while, and for the word of this process.
_LOOKS_AT_ONCE = 4
_LOOKING: WeakKeyDictionary[Session, asyncio.Semaphore] = WeakKeyDictionary()
# Sagas started in one transaction, and how often that is tried again when another process is in the way.
_STARTS_MAX = 64
_CONFLICTS_MAX = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a saga is started with."""

    event: Event
    key: str
    deadline: timedelta | None
    trace: str


class SagaHandle:
    """One saga, by id or key. `is_new` is False when the key named a saga that was started before with the same payload."""

    def __init__(self, session: Session, saga_id: UUID | None, key: str = "", *, is_new: bool = False) -> None:
        self._session = session
        self._saga_id = saga_id
        self.key = key
        self.is_new = is_new
        self._watched = session.watched(saga_id) if is_new and saga_id is not None else None

    def __repr__(self) -> str:
        return f"SagaHandle(saga_id={str(self._saga_id)!r}, key={self.key!r})"

    @property
    def saga_id(self) -> UUID:
        """Raises SagaNotFound on a handle made from a key that has not been looked up yet (any awaited method does that)."""
        if self._saga_id is None:
            raise SagaNotFound(f"the saga with key {self.key!r} has not been looked up yet; await handle.state() first")
        return self._saga_id

    async def published(self) -> None:
        """After the caller's commit: publish the start event at once, from this process. Without it the agent's scan finds
        it a little later. A SQLAlchemy session does it by itself. Raises SagaNotFound when the caller's transaction was not committed."""
        await self._resolve()
        session = self._session
        if session.published is None:
            session.published = Together(partial(_publish_together, session), _STARTS_MAX)
        await session.published.submit(self.saga_id)

    async def view(self) -> SagaView:
        """Everything this participant knows of the saga."""
        records = await self._records()
        known = self._session.catalog.get(records[0].definition)
        return view_of(records, known.plan if known is not None else None)

    async def state(self) -> SagaState:
        return (await self.view()).state

    async def wait(self, timeout: float | None = None) -> SagaState:  # noqa: ASYNC109  the word users expect here
        """The state in which the saga ended. Raises WaitTimeout when it has not ended in time (seconds); it goes on."""
        await self._resolve()
        watched = self._watched or self._session.watched(self.saga_id)
        budgets = Budgets()
        try:
            with budgets.of(timeout):
                return await self._until_ended(watched, budgets)
        except TimeoutError as exc:
            raise WaitTimeout(
                f"saga {str(self.saga_id)!r} has not ended within {timeout} s; it goes on, wait again or look at state()"
            ) from exc
        finally:
            budgets.close()

    async def _until_ended(self, watched: Watched, budgets: Budgets) -> SagaState:
        # A serving agent records the end itself, unless its service has others; of a saga it has just started it missed none. A client
        # has to look.
        serves, is_alone = self._session.serves, not self._session.directory.has_company()
        look_s, look_max_s = (_LOOK_MAX_S, _LOOK_SERVING_MAX_S) if serves else (_LOOK_FIRST_S, _LOOK_MAX_S)
        look_s = _LOOK_SERVING_MAX_S if serves and is_alone else look_s
        looks = not (serves and self.is_new)
        has_looked = not looks
        looking = _LOOKING.setdefault(self._session, asyncio.Semaphore(_LOOKS_AT_ONCE))
        while watched.state is None:
            if looks and not (has_looked and looking.locked()):
                async with looking:
                    records = await self._records()
                has_looked = True
                if any(record.row.outcome is not Outcome.OPEN for record in records):
                    return view_of(records, None).state
            looks = True
            try:
                with budgets.of(look_s):  # another process may be the one that records the end
                    await watched.heard.wait()
            except TimeoutError:
                look_s = min(look_s * 2, look_max_s)
        return watched.state

    async def cancel(self, reason: str) -> None:
        """Ask for the saga to be undone. A request: a saga that can no longer be undone completes. Raises Refused when it has
        ended already, SagaNotFound when this participant does not know it."""
        await self._resolve()
        session = self._session
        steps = session.pipeline.command(self.saga_id, None, CancelRequested(), reason, runs=session.serves)
        answer = await Driver(session).run(steps)
        if answer is None:
            raise _unknown(self.saga_id)
        if isinstance(answer, Refusal):
            raise Refused(f"saga {str(self.saga_id)!r} cannot be cancelled: {answer.reason}")

    async def _resolve(self) -> None:
        if self._saga_id is None:
            self._saga_id = (await find(self._session, self.key)).saga_id

    async def _records(self) -> Sequence[Record]:
        await self._resolve()
        records = await self._session.store.records(self.saga_id, self._session.service)
        if not records:
            raise _unknown(self.saga_id)
        return records


def _unknown(saga_id: UUID) -> SagaNotFound:
    return SagaNotFound(
        f"no saga {str(saga_id)!r} is known here; it never reached this participant, was not committed, or is past the horizon"
    )


async def find(session: Session, key: str) -> BusinessKey:
    """The saga that this service started under a business key. Raises SagaNotFound, or Refused when several choreographies use it."""
    found = await session.store.key(session.service, "", key)
    if not found:
        raise SagaNotFound(
            f"no saga with key {key!r} was started by {session.service!r}; keys are known where the saga was started"
        )
    if len(found) > 1:
        names = ", ".join(sorted(repr(one.choreography) for one in found))
        raise Refused(f"key {key!r} names sagas of several choreographies ({names}); use the saga's id")
    return found[0]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A saga to be started: its origin row, and the digest of the contents that its key stands for."""

    known: Known
    record: Record
    digest: str


async def started_by(session: Session, event: EventRef, name: str, wait_s: float) -> Known:
    """The definition whose sagas this event starts, assembled if need be. Raises DefinitionError, NotReady."""
    opened = session.part.assembles
    forms = [*session.part.shared, *(() if opened is None else (opened,))]
    found = [form for form in forms if form.start == event and name in ("", form.name)]
    if len(found) == 1:
        known = None if found[0] is opened else session.catalog.get(found[0].definition)
        return known if known is not None else await session.directory.assembled(wait_s)
    starts = ", ".join(sorted(f"{form.name} ({form.start})" for form in forms)) or "none (it knows its own steps only)"
    advice = "name one with choreography=..." if found else f"start events here: {starts}"
    raise DefinitionError(f"event {str(event)!r} starts {len(found)} choreographies of agent {session.service!r}; {advice}")


async def start(session: Session, known: Known, what: Start, tx: Any, wait_s: float) -> SagaHandle:
    """Write the origin row, in the caller's transaction when one is given, else together with others that start at this moment.
    Waits so long for owners that have not announced yet.
    Raises KeyConflict, ResultTooLarge, NotReady, Overloaded."""
    payload = _payload(what)
    _check_deadline(known.plan, what, session.limits.horizon_s)
    if session.serves:
        await session.epochs.require_clear(wait_s)
    await session.directory.require(known.plan, wait_s)
    wanted = _Wanted(known, _origin_record(session, known.plan, what, payload), _digest(what.event))
    if tx is None:
        await session.admission.require()
        return await starts_of(session).submit(wanted)
    session.admission.require_soon(session.soon)
    transaction = session.store.join(tx)
    answer, _ = await _open(session, transaction, wanted)
    if isinstance(answer, KeyConflict):
        raise answer
    await transaction.commit()  # of the toolkit's part: the rest is the caller's
    if answer.is_new and _tells_of_commit(type(transaction)):
        cast("TellsOfCommit", transaction).after_commit(partial(session.soon, answer.published))
        session.relay.expect(wanted.record.record_key)
    elif answer.is_new and session.published is not None:  # callers here say when they have committed
        session.relay.expect(wanted.record.record_key)
    return answer


@cache
def _tells_of_commit(kind: type[object]) -> bool:
    """Asked once a class: to look whether an object is of a protocol costs more than to make its record."""
    return issubclass(kind, TellsOfCommit)


async def _publish_together(session: Session, round_: Sequence[UUID]) -> Sequence[SagaNotFound | None]:
    """One look at what of these has been committed, and one round of publishing for all that has, but for what is published."""
    records = await session.store.origins(session.service, round_)
    for record in records:
        _remember(session, [record])
    known = session.relay.announced
    silent = [one for one in records if max(one.announced, known.get(one.record_key, 0)) < one.version]
    await session.relay.publish(publications_of(silent, session.catalog, session.clock.time_ns()))
    there = {record.saga_id for record in records}
    return [None if saga_id in there else _unknown(saga_id) for saga_id in round_]


def _remember(session: Session, records: Sequence[Record]) -> None:
    """The next message of a saga that has just been started here is applied to what the start has written."""
    origin = records[0] if records else None
    known = session.catalog.get(origin.definition) if session.serves and origin is not None and origin.is_start else None
    if origin is not None and known is not None and not any(ORIGIN in step.preds for step in known.own):
        session.presuming.keep([records], origin.changed_ms)


def starts_of(session: Session) -> Together[_Wanted, SagaHandle]:
    """The session's queue of starts, made at first use."""
    if session.starts is None:
        session.starts = Together(partial(_start_together, session), _STARTS_MAX)
    return session.starts


async def _start_together(session: Session, round_: Sequence[_Wanted]) -> Sequence[SagaHandle | Exception]:
    """One transaction for all. A conflict with another process is tried again; a key that is taken concerns its caller only."""
    for tried in range(_CONFLICTS_MAX):
        try:
            async with session.store.transaction() as transaction:
                opened_ = [await _open(session, transaction, wanted) for wanted in round_]
                await transaction.commit()
        except StoreConflict:
            if tried == _CONFLICTS_MAX - 1:
                raise
            await session.clock.sleep(0.01 * (1 << tried) * (0.5 + session.clock.chance()))
        else:
            saved = [record for _, records in opened_ for record in records]
            for _, records in opened_:
                _remember(session, records)
            session.saved(saved)
            await session.publish(publications_of(saved, session.catalog, session.clock.time_ns()), ())
            return [answer for answer, _ in opened_]
    raise AssertionError("the last conflict is raised")


async def _open(session: Session, transaction: Transaction, wanted: _Wanted) -> tuple[SagaHandle | KeyConflict, Sequence[Record]]:
    """Write a saga's first records, unless its key names one already. Returns what its caller gets, and what was written."""
    record = wanted.record
    now_ms = session.clock.time_ns() // 1_000_000
    ws = Workspace(session.service, session.catalog, session.limits, now_ms, session.clock.chance())
    ws.open_origin(record, wanted.known)
    first, *more = ws.changed()  # in key order: the origin's own row comes first
    if record.key:
        there = await transaction.register(_key_of(wanted), first)
        if there.saga_id != record.saga_id:
            return _named_already(session, there, wanted), ()
    await transaction.save(more if record.key else [first, *more])
    return SagaHandle(session, record.saga_id, record.key, is_new=True), (first, *more)


def _key_of(wanted: _Wanted) -> BusinessKey:
    record = wanted.record
    return BusinessKey(
        service=record.service, choreography=record.choreography, key=record.key, saga_id=record.saga_id, digest=wanted.digest
    )


def _named_already(session: Session, there: BusinessKey, wanted: _Wanted) -> SagaHandle | KeyConflict:
    if there.digest == wanted.digest:
        return SagaHandle(session, there.saga_id, there.key)
    return KeyConflict(
        f"key {there.key!r} of choreography {there.choreography!r} already names saga {str(there.saga_id)!r}, which was "
        "started with another payload; use another key, or the payload of then"
    )


def _origin_record(session: Session, plan: Plan, what: Start, payload: bytes) -> Record:
    now_ms = session.clock.time_ns() // 1_000_000
    after = what.deadline or plan.choreography.deadline_after
    return Record.of(
        service=session.service,
        saga_id=saga_id_at(now_ms, session.clock.entropy(10)),
        definition=plan.definition,
        step=ORIGIN,
        row=opened(),
        choreography=plan.choreography.name,
        origin=session.service,
        key=what.key,
        deadline_ms=None if after is None else now_ms + int(after.total_seconds() * 1000),
        results={0: payload},
        trace=what.trace,
        changed_ms=now_ms,
    )


def _payload(what: Start) -> bytes:
    checked_key(what.key)
    return encode(what.event, f"the start event {str(what.event.event)!r}")


def _check_deadline(plan: Plan, what: Start, horizon_s: float) -> None:
    """Before anything is stored: a saga that no message can be sent of would stop every agent that finds it."""
    form, after = plan.choreography, what.deadline
    if after is not None and not 0 < after.total_seconds() <= horizon_s:
        raise ValueError(
            f"the deadline {after!r} is not between now and the horizon of {horizon_s:g} s, after which sagas are forgotten; "
            "give a shorter one, or none"
        )
    if after is None and form.deadline_after is not None and form.deadline_after.total_seconds() > horizon_s:
        raise DefinitionError(
            f"choreography {form.name!r} has the deadline {form.deadline_after!r}, beyond the horizon of {horizon_s:g} s, after which "
            "sagas are forgotten; shorten it, or raise Limits.horizon_s"
        )


def _digest(event: Event) -> str:
    """Of the event's name, version and contents; the order of fields does not matter."""
    # Not orjson: a payload may have integers beyond 64 bits.
    contents = json.dumps(event.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{event.event}\n{contents}".encode()).hexdigest()
