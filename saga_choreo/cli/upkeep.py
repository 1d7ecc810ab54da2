"""`store migrate` and `store check`: what a store tells of itself, and what contradicts itself in it."""

from __future__ import annotations

import asyncio
import getpass
import time
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import click

from saga_choreo.cli.confirm import Consent, confirm
from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import Output, emit_json, emit_rows, schema, talk
from saga_choreo.cli.reading import store_url_of, with_store
from saga_choreo.errors import ConfigurationError, SagaNotFound, StoreVersionError
from saga_choreo.ports import StoreState, Upkeep
from saga_choreo.runtime.accepting import accept
from saga_choreo.runtime.checking import Checked, check_store
from saga_choreo.runtime.consistency import Contradiction
from saga_choreo.runtime.epochs import suspects
from saga_choreo.runtime.plugins import WholeStore, make_store, redacted

__all__ = ["accept_epoch", "check_the_store", "migrate_store"]

_COLUMNS = ("code", "service", "saga", "step", "detail")


def migrate_store(url: str | None, out: Output, *, dry_run: bool) -> None:
    found = store_url_of(url)

    async def run() -> tuple[StoreState, StoreState]:
        before = await _inspected(found)
        if before.version > before.wanted and not before.works:
            raise StoreVersionError(
                f"the saga tables at {redacted(found)!r} have schema version {before.version}, this saga_choreo knows up to "
                f"{before.wanted}; upgrade saga_choreo here"
            )
        if dry_run or not (before.pending or before.findings):
            return before, before
        store = make_store(found)
        await store.open(migrate=True)
        await store.close()
        return before, await _inspected(found)

    before, after = asyncio.run(run())
    if out.format == "json":
        shown = {"from": before.version, "version": after.version, "wanted": after.wanted, "pending": list(after.pending)}
        shown["shuts_out_older"] = _shuts_out(before)
        emit_json({"schema": schema("store-migration"), "dry_run": dry_run, **shown, "done": list(_done(before, after))})
        return
    click.echo(f"version {before.version}, this saga-choreo works with {before.wanted}")
    for name in before.pending if dry_run else _done(before, after):
        click.echo(f"{'would run' if dry_run else 'done'}: {name}")
    if dry_run and _shuts_out(before):
        click.echo(
            f"afterwards a release that knows version {before.version} only is refused when it starts; stop such agents first, or soon"
        )
    mended = [detail for _, _, detail in before.findings if not dry_run and detail not in {one[2] for one in after.findings}]
    for detail in mended:
        click.echo(f"put right: {detail}")
    if not (before.pending or mended):
        click.echo("nothing to do")


def _shuts_out(state: StoreState) -> bool:
    return 0 < state.version < state.oldest


def _done(before: StoreState, after: StoreState) -> tuple[str, ...]:
    return tuple(name for name in before.pending if name not in after.pending)


def check_the_store(
    url: str | None, out: Output, *, late_s: int, limit: int, ledger: str, ledger_steps: tuple[str, ...] = ()
) -> None:
    found = store_url_of(url)
    if ledger_steps and not ledger:
        raise CliError(
            ExitCode.USAGE, "--ledger-step says which steps write to the ledger, and none was named; give --ledger SQL too"
        )

    async def run() -> tuple[StoreState, Checked | None]:
        state = await _inspected(found)
        if not state.works:
            return state, None
        store = make_store(_relaxed(found) if state.unsafe else found)
        await store.open(migrate=False)
        try:
            now_ms = time.time_ns() // 1_000_000
            return state, await check_store(
                store, now_ms=now_ms, late_ms=late_s * 1000, limit=limit, ledger=ledger, ledger_steps=ledger_steps
            )
        finally:
            await store.close()

    state, checked = asyncio.run(run())
    rows = [*_of_state(state), *(asdict(one) for one in (checked.found if checked is not None else ()))]
    if out.format == "json":
        emit_json({"schema": schema("store-check"), **_looked_at(state, checked), "findings": rows})
    else:
        _tell(state, checked)
        emit_rows(rows, _COLUMNS, out, known=_COLUMNS, empty="Nothing contradicts itself.")
    if rows:
        raise click.exceptions.Exit(ExitCode.FINDINGS)


async def _inspected(url: str) -> StoreState:
    store: WholeStore = make_store(url)
    if not isinstance(store, Upkeep):
        raise ConfigurationError(f"the {store.features.name} store tells nothing of itself; ask whoever made its adapter")
    return await store.inspect()


def _relaxed(url: str) -> str:
    """To look at a store that agents refuse to work with."""
    return f"{url}{'&' if '?' in url else '?'}durability=relaxed"


def _of_state(state: StoreState) -> list[dict[str, Any]]:
    found: list[Contradiction] = []
    if not state.works:
        what = "is newer" if state.version > state.wanted else "lacks " + ", ".join(state.pending)
        advice = "upgrade saga-choreo here" if state.version > state.wanted else "run: saga-choreo store migrate"
        detail = f"schema version {state.version}, this saga-choreo works with {state.wanted}: it {what}; {advice}"
        found.append(Contradiction("version", "", "", "", detail))
    for name, value in sorted(state.unsafe.items()):
        detail = f"{name} is {value!r}: a crash may undo what was confirmed"
        found.append(Contradiction("durability", "", "", "", detail))
    found += [Contradiction(code, service, "", "", detail) for code, service, detail in state.findings]
    return [asdict(one) for one in found]


def _looked_at(state: StoreState, checked: Checked | None) -> dict[str, Any]:
    return {
        "store": state.name,
        "version": state.version,
        "wanted": state.wanted,
        "pending": list(state.pending),
        "settings": dict(state.settings),
        "identity": state.identity,
        "sagas": checked.sagas if checked is not None else 0,
        "records": checked.records if checked is not None else 0,
        "further": checked.further if checked is not None else False,
    }


def _tell(state: StoreState, checked: Checked | None) -> None:
    settings = ", ".join(f"{name}={value}" for name, value in sorted(state.settings.items()))
    talk(f"{state.name}, schema version {state.version} of {state.wanted}; {settings or 'settings are not told'}")
    if checked is not None:
        more = "; there are older ones, see --limit" if checked.further else ""
        talk(f"looked at {checked.sagas} sagas with {checked.records} records{more}")


def accept_epoch(store_url: str | None, out: Output, service: str, reason: str, consent: Consent) -> None:
    is_read_by_program = out.format in {"json", "jsonl"}

    async def work(store: WholeStore) -> list[dict[str, Any]]:
        if not isinstance(store, Upkeep):
            raise ConfigurationError(f"the {store.features.name} store keeps no epoch, so there is none to accept")
        now = await store.epoch(service)
        known = {holder for definition in await store.definitions() for holder in await store.holders(definition)}
        if not now.position and known and service not in known:  # an empty store, put in the place of another, may be meant
            raise SagaNotFound(
                f"no agent of service {service!r} has worked on this store; services known here: {', '.join(sorted(known))}; "
                "check --service and --store"
            )
        found = await suspects(store, service)
        rows = [{"id": saga_id, "result": "planned" if consent.dry_run else "accepted"} for saga_id in found]
        plan = f"accept the store of {service} at position {now.position} as it is ({reason}); open sagas, which may miss commits"
        if not confirm(plan, found, consent, quiet=is_read_by_program):
            return rows if is_read_by_program else []
        acceptance = accept(now, uuid4().hex, getpass.getuser(), reason, time.time_ns() // 1_000_000)
        await store.advance(service, note=acceptance.note())
        return rows

    emit_rows(with_store(store_url, work), ("id", "result"), out, known=("id", "result"), empty="No open sagas.")
