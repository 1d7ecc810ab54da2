"""The demo from its first process to its last: start everything, run the load, let all come to rest, stop, judge by the ledgers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from saga_choreo.demo.chaos import IN_FLIGHT_MIN, KILLS, Kill, strike_all
from saga_choreo.demo.hops import Heard, hops_ms
from saga_choreo.demo.judge import Effect, judge
from saga_choreo.demo.ledgers import effects_in
from saga_choreo.demo.load import Load
from saga_choreo.demo.processes import Service, watch
from saga_choreo.demo.report import Findings
from saga_choreo.demo.rest import come_to_rest, open_sagas, redelivered, until_ready
from saga_choreo.demo.stage import Audience, Connections, connections, running_services, workplace
from saga_choreo.demo.story import CHAIN, EVENTS, Example, Order, find_example, refuser

__all__ = ["Options", "Played", "run_demo"]

_PROGRESS_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    sagas: int
    fail_every: int
    chaos: bool
    keep: bool
    timeout_s: float


@dataclass(slots=True)
class _Course:
    """What the run itself yields, before anything is judged."""

    load: Load
    kills: list[Kill] = field(default_factory=list[Kill])
    redelivered: Mapping[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0
    troubles: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Played:
    """What was found, and what it was found from."""

    found: Findings
    effects: Sequence[Effect]
    heard: Sequence[Heard]

    def example_of(self, state: str) -> str:
        """A saga that ended so, one with the most effects to look at; an empty string when none did."""
        counts = Counter(row.saga_id for row in self.effects)
        ended = [saga_id for saga_id, found in self.found.states.items() if found == state]
        return max(ended, key=lambda saga_id: counts[saga_id], default="")


async def run_demo(options: Options, audience: Audience) -> Played:
    """Raises ConfigurationError (no checkout, a package is missing) or DemoFailed. Leaves no process behind, also when cancelled."""
    try:
        return await _run(options, audience)
    except Exception as error:  # noqa: BLE001  (raised again; only what it is wrapped in goes)
        reason = _reason(error)
        raise reason from reason.__cause__


def _reason(error: Exception) -> Exception:
    """Task groups wrap what their tasks raise; a person wants the one reason."""
    match error:
        case ExceptionGroup(exceptions=[Exception() as first, *_]):
            return _reason(first)
        case _:
            return error


async def _run(options: Options, audience: Audience) -> Played:
    example = find_example()
    with workplace(example.root, audience) as (directory, keep):
        async with (
            running_services(directory, example.root, audience) as (broker_url, services, troubles),
            connections(example, services, broker_url) as around,
        ):
            course = await _play(options, audience, example, services, around)
        effects = [effect for service in services.values() for effect in effects_in(service.name, service.database)]
        course.troubles += troubles
        found = _judged(course, effects, around.wire.heard)
        if options.keep or not found.is_right:
            keep()
        return Played(found, effects, around.wire.heard)


def _judged(course: _Course, effects: Sequence[Effect], heard: Sequence[Heard]) -> Findings:
    load = course.load
    refused_by = {saga_id: order.refused_by for saga_id, order in load.order_of.items()}
    return Findings(
        sagas=load.total,
        states=load.states,
        verdict=judge(CHAIN, refused_by, load.states, effects),
        redelivered=course.redelivered,
        seconds=course.seconds,
        hops=hops_ms(heard, EVENTS),
        kills=course.kills,
        troubles=course.troubles,
    )


async def _play(
    options: Options, audience: Audience, example: Example, services: Mapping[str, Service], around: Connections
) -> _Course:
    orders = [Order(number, refuser(number, options.fail_every)) for number in range(1, options.sagas + 1)]
    course = _Course(Load(example, around.wire, orders))
    async with asyncio.TaskGroup() as group:
        guard = group.create_task(watch(services.values()))
        await until_ready(example, services, around.stores)
        audience.say(f"all services are ready; {options.sagas} sagas start")
        progress = group.create_task(_show_progress(course.load, audience))
        await _run_load(options, audience, services, around, course)
        progress.cancel()
        audience.progress(_progress(course.load))
        if course.load.is_done:
            audience.say("all sagas have ended; waiting until the last message is acknowledged")
            course.troubles += await come_to_rest(around, services)
        course.redelivered = await redelivered(around.stores)
        guard.cancel()
    if options.chaos:
        course.troubles += _blows_missing(course)
    return course


async def _run_load(
    options: Options, audience: Audience, services: Mapping[str, Service], around: Connections, course: _Course
) -> None:
    load, began = course.load, time.monotonic()
    try:
        async with asyncio.timeout(options.timeout_s), asyncio.TaskGroup() as group:
            group.create_task(load.run())
            if options.chaos:
                await strike_all(load, services, around, course.kills, audience.say)
            load.allow(load.total)
    except TimeoutError:
        course.troubles.append(f"the sagas did not end within {options.timeout_s:.0f} s (--timeout)")
        course.troubles += await open_sagas(load, around.stores)
    course.seconds = time.monotonic() - began


def _blows_missing(course: _Course) -> list[str]:
    troubles: list[str] = []
    if len(course.kills) < KILLS:
        troubles.append(
            f"only {len(course.kills)} of {KILLS} kills were possible: with {course.load.total} sagas no further service had "
            f"{IN_FLIGHT_MIN} messages or records in flight; give more sagas (SAGAS=200)"
        )
    if not sum(course.redelivered.values()):
        troubles.append("the broker delivered nothing again, although services were killed; this run shows nothing, run it again")
    return troubles


async def _show_progress(load: Load, audience: Audience) -> None:
    while True:
        audience.progress(_progress(load))
        await asyncio.sleep(_PROGRESS_S)


def _progress(load: Load) -> str:
    counts = Counter(load.states.values())
    ended = ", ".join(f"{counts[state]} {state}" for state in sorted(counts)) or "none yet"
    return f"{len(load.states)} of {load.total} sagas have ended ({ended}), {load.under_way} under way"
