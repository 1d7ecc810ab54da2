"""Exchanges, queues and bindings as a plan, and what the server has against it: for `saga-choreo broker`.

AMQP lists nothing. Whether a queue is there, it tells who asks by name. What its arguments are, it tells only who declares it with
others: so an argument is added that a queue which is there is not compared by, and with which none can be made. Asking therefore
changes nothing, even when somebody deletes the queue in between. Bindings, and queues that nobody named, stay unseen, and that is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pamqp import commands
from pamqp.base import Frame

from saga_choreo.ports import Difference, Planned, Topology
from saga_choreo_rabbitmq import topology as channels
from saga_choreo_rabbitmq.errors import Closed
from saga_choreo_rabbitmq.later import steps_ms
from saga_choreo_rabbitmq.names import Names
from saga_choreo_rabbitmq.options import Options
from saga_choreo_rabbitmq.wire import Wire

__all__ = ["apply", "plan", "survey"]

_ACCESS_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED = 403, 404, 406
# Of streams only, and of classic queues only: no queue of the other type is compared by it, and none is made with it.
_UNMAKEABLE_QUEUE = {"quorum": {"x-initial-cluster-size": 1}, "stream": {"x-max-priority": 1}}
# Takes a name, not a number.
_UNMAKEABLE_EXCHANGE = {"alternate-exchange": 1}


def _receiving(topologies: Sequence[Topology]) -> list[Topology]:
    return [replace(topology, receives=True) for topology in topologies]


def _exchanges(names: Names) -> dict[str, str]:
    return {names.exchange: "topic", **{names.delay(step): "fanout" for step in steps_ms()}}


def _delays(names: Names, options: Options) -> dict[str, Mapping[str, Any]]:
    return {names.delay(step): channels.delay_arguments(options, step) for step in steps_ms()}


def _queues(names: Names, options: Options, topologies: Sequence[Topology]) -> dict[str, Mapping[str, Any]]:
    wanted: dict[str, Mapping[str, Any]] = {}
    for topology in _receiving(topologies):
        wanted |= channels.queues(names, options, topology)
    return wanted | {names.defs: channels.DEFS}


def _bindings(names: Names, topologies: Sequence[Topology]) -> dict[str, list[str]]:
    """Queue -> routing keys."""
    found: dict[str, list[str]] = {names.defs: ["defs"]}
    for topology in _receiving(topologies):
        for bind in channels.binds(names, topology):
            keys = found.setdefault(bind.queue, [])
            if bind.routing_key not in keys:
                keys.append(bind.routing_key)
    return found


def plan(names: Names, options: Options, topologies: Sequence[Topology]) -> list[Planned]:
    bound = _bindings(names, topologies)
    exchanges = [Planned("exchange", name, {"type": kind}) for name, kind in _exchanges(names).items()]
    queues = [
        Planned("queue", name, {**arguments, "bindings": bound.get(name, [])})
        for name, arguments in _queues(names, options, topologies).items()
    ]
    delays = [Planned("queue", name, {**arguments, "bindings": [""]}) for name, arguments in _delays(names, options).items()]
    return exchanges + queues + delays


async def apply(wire: Wire, names: Names, options: Options, topologies: Sequence[Topology]) -> None:
    wanted = [*_queues(names, options, topologies), *_delays(names, options)]
    there = [await channels.is_there(wire, queue) for queue in wanted]
    at_once = replace(options, settle=0)
    for topology in _receiving(topologies):
        await channels.declare(wire, names, at_once, topology)
    await channels.declare_defs(wire, names, at_once)
    for step in steps_ms():
        await channels.declare_delay(wire, names, options, step)
    if not all(there):
        await asyncio.sleep(options.settle)


async def survey(wire: Wire, names: Names, options: Options, topologies: Sequence[Topology]) -> list[Difference]:
    """Queues for delays are made when they are first needed, so one that is not there is not missing."""
    found = await _of_exchange(wire, names.exchange, "topic")
    for name, arguments in _queues(names, options, topologies).items():
        if await channels.is_there(wire, name):
            found += await _of_queue(wire, name, arguments)
        else:
            found.append(Difference("missing", "queue", name))
    for name, arguments in _delays(names, options).items():
        if await channels.is_there(wire, name):
            found += [*await _of_exchange(wire, name, "fanout"), *await _of_queue(wire, name, arguments)]
    return [*found, _unseen(names, topologies)]


def _unseen(names: Names, topologies: Sequence[Topology]) -> Difference:
    count = sum(len(keys) for keys in _bindings(names, topologies).values())
    return Difference(
        "unseen",
        "binding",
        names.exchange,
        f"AMQP shows no bindings and lists no queues: whether the {count} that are planned are there, and what is extra, is not known;"
        " compare `broker plan` with `rabbitmqctl list_bindings` (`broker apply`, and each agent that may declare, adds what is missing)",
    )


async def _of_exchange(wire: Wire, name: str, kind: str) -> list[Difference]:
    refusal = await _refusal(wire, commands.Exchange.Declare(0, name, kind, passive=True))
    if refusal is not None and refusal.code == _NOT_FOUND:
        return [Difference("missing", "exchange", name)]
    asked = commands.Exchange.Declare(0, name, kind, durable=True, arguments=dict(_UNMAKEABLE_EXCHANGE))
    refusal = refusal or await _refusal(wire, asked)
    if refusal is None or "inequivalent arg 'alternate-exchange'" in refusal.text:
        return []
    if "for arg 'alternate-exchange'" in refusal.text:
        return [Difference("missing", "exchange", name, "it was deleted a moment ago")]
    if refusal.code == _ACCESS_REFUSED:
        return [Difference("unseen", "exchange", name, _hidden("type"))]
    return [Difference("different", "exchange", name, f"it is not a durable {kind} exchange ({refusal.text}); agents refuse it")]


async def _of_queue(wire: Wire, name: str, arguments: Mapping[str, Any]) -> list[Difference]:
    """The server names one difference at a time: those that lose nothing are taken as found, to be told the next one."""
    wanted, found = dict(arguments), list[Difference]()
    unmakeable = _UNMAKEABLE_QUEUE[str(wanted["x-queue-type"])]
    for _ in range(len(wanted) + 1):
        asked = commands.Queue.Declare(0, name, durable=True, arguments={**wanted, **unmakeable})
        refusal = await _refusal(wire, asked)
        if refusal is None:
            break
        if refusal.code == _ACCESS_REFUSED:
            return [Difference("unseen", "queue", name, _hidden("arguments"))]
        if any(f"invalid arg '{argument}'" in refusal.text for argument in unmakeable):
            return [Difference("missing", "queue", name, "it was deleted a moment ago")]
        taken = channels.take_as_found(wanted, refusal) if refusal.code == _PRECONDITION_FAILED else None
        if taken is None:
            said = f"its settings would lose messages ({refusal.text}); agents refuse it"
            return [*found, Difference("different", "queue", name, said)]
        said = f"it has {taken}; agents take it as it is, and only a queue that is made anew has what is planned"
        found.append(Difference("different", "queue", name, said))
    return found


def _hidden(what: str) -> str:
    return f"it is there, but this account may not configure it, so its {what} cannot be compared"


async def _refusal(wire: Wire, request: Frame) -> Closed | None:
    """Raises where it is the connection that is gone."""
    channel = wire.channel()
    try:
        await channel.call_all([request])
    except Closed as exc:
        if exc.code not in (_ACCESS_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED):
            raise
        return exc
    channel.leave()
    return None
