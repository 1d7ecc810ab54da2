"""Exchange and queues: declared where they are missing, taken as they are where only a number differs, refused where they would
lose messages.

Declaring again is cheap and safe at any time, so it is also the cure for whatever somebody deleted. Bindings are only ever added:
releases of one service that overlap may react to different events, and the queue then holds what any of them needs.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pamqp import commands
from pamqp.base import Frame

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Channel, ChannelKind, Topology
from saga_choreo_rabbitmq.errors import Closed
from saga_choreo_rabbitmq.names import Names
from saga_choreo_rabbitmq.options import Options
from saga_choreo_rabbitmq.wire import Wire

__all__ = [
    "DEFS",
    "assert_bindings",
    "binds",
    "check",
    "declare",
    "declare_defs",
    "declare_delay",
    "delay_arguments",
    "is_there",
    "queues",
    "take_as_found",
    "undeliverable_count",
]

_log = logging.getLogger("saga_choreo.rabbitmq")

Arguments = Mapping[str, Any]
_ACCESS_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED = 403, 404, 406
# Numbers that an operator may have set otherwise, and that lose nothing.
_TAKEN_AS_FOUND = ("x-message-ttl", "x-max-length-bytes", "x-delivery-limit", "x-quorum-initial-group-size", "x-max-age")
_INEQUIVALENT = re.compile(r"inequivalent arg '([^']+)' .*?current is (?:(?:the value )?'([^']*)'|none)", re.DOTALL)
# RabbitMQ 4 drops a message after twenty deliveries where no limit is set, and 3 knows no word for "none".
_NO_LIMIT = 1_000_000
# Announcements come again and again, so an hour is more than enough; `notices` says how what is older is kept.
DEFS = {"x-queue-type": "stream", "x-max-age": "1h", "x-stream-max-segment-size-bytes": 1_000_000}
_KEPT = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}


def _dead_lettering(exchange: str, key: str | None = None) -> dict[str, Any]:
    """At least once: the server keeps a message until the queue it goes to has confirmed it."""
    arguments = {"x-dead-letter-exchange": exchange, "x-dead-letter-strategy": "at-least-once"}
    return arguments if key is None else {**arguments, "x-dead-letter-routing-key": key}


def _quorum(options: Options, limit: int) -> dict[str, Any]:
    size = {"x-quorum-initial-group-size": options.replicas} if options.replicas else {}
    return {**_KEPT, **size, "x-delivery-limit": limit}


def queues(names: Names, options: Options, topology: Topology) -> dict[str, Arguments]:
    """Queue -> arguments, in the order in which they are needed."""
    wanted: dict[str, Arguments] = {
        names.undeliverable: _quorum(options, _NO_LIMIT),
        names.dlq: _quorum(options, _NO_LIMIT),
    }
    if topology.receives:
        space = {"x-max-length-bytes": options.queue_max_bytes} if options.queue_max_bytes > 0 else {}
        wanted[names.service(topology.service)] = {
            **_quorum(options, options.delivery_limit),
            **_dead_lettering("", names.undeliverable),
            "x-message-ttl": int(options.horizon * 1000),
            **space,
        }
    return wanted


def binds(names: Names, topology: Topology) -> list[commands.Queue.Bind]:
    bound = [(names.dlq, "dlq")]
    if topology.receives:
        channels = [Channel(ChannelKind.CONTROL, topology.service), Channel(ChannelKind.OUTCOME)]
        channels += [Channel(ChannelKind.EVENT, event) for event in sorted(set(topology.events))]
        bound += [(names.service(topology.service), names.key(channel)) for channel in channels]
    return [commands.Queue.Bind(0, queue, names.exchange, key) for queue, key in bound]


async def declare(wire: Wire, names: Names, options: Options, topology: Topology) -> None:
    """Make everything this agent needs, except the stream. Raises ConfigurationError where what is there would lose messages."""
    wanted = queues(names, options, topology)
    there = await asyncio.gather(*(is_there(wire, queue) for queue in wanted))
    await _declare(wire, (names.exchange, "topic"), wanted, binds(names, topology))
    if not all(there):
        await asyncio.sleep(options.settle)


async def declare_defs(wire: Wire, names: Names, options: Options) -> None:
    """The stream of the definitions. It stands for itself: an agent works on while it is down."""
    bind = commands.Queue.Bind(0, names.defs, names.exchange, "defs")
    was_there = await is_there(wire, names.defs)
    await _declare(wire, (names.exchange, "topic"), {names.defs: DEFS}, [bind])
    if not was_there:
        await asyncio.sleep(options.settle)


def delay_arguments(options: Options, delay_ms: int) -> dict[str, Any]:
    return {**_quorum(options, _NO_LIMIT), **_dead_lettering(""), "x-message-ttl": delay_ms}


async def declare_delay(wire: Wire, names: Names, options: Options, delay_ms: int) -> None:
    """A queue whose messages go on, after the delay, to the queue that their routing key names. An account that may not declare it
    uses it as `saga-choreo broker apply` has made it."""
    name = names.delay(delay_ms)
    arguments = delay_arguments(options, delay_ms)
    try:
        await _declare(wire, (name, "fanout"), {name: arguments}, [commands.Queue.Bind(0, name, name, "")])
    except Closed as exc:
        if exc.code != _ACCESS_REFUSED:
            raise
        await _look_at(wire, name)


async def assert_bindings(wire: Wire, names: Names, topology: Topology) -> None:
    await _all(wire, binds(names, topology))


async def _declare(
    wire: Wire, exchange: tuple[str, str], queues: Mapping[str, Arguments], binds: Sequence[commands.Queue.Bind]
) -> None:
    """All at once, in one round trip; one after the other when the server objects, to find out to what."""
    first = _exchange(*exchange)
    try:
        await _all(wire, [first, *(_queue(name, arguments) for name, arguments in queues.items()), *binds])
    except Closed as exc:
        if exc.code != _PRECONDITION_FAILED:
            raise
        await _declare_exchange(wire, first, exc.text)
        for name, arguments in queues.items():
            await _declare_queue(wire, name, arguments)
        await _all(wire, binds)


async def _all(wire: Wire, requests: Sequence[Frame]) -> None:
    channel = wire.channel()
    await channel.call_all(requests)
    channel.leave()


def _exchange(name: str, kind: str) -> commands.Exchange.Declare:
    return commands.Exchange.Declare(0, name, kind, durable=True)


def _queue(name: str, arguments: Arguments) -> commands.Queue.Declare:
    return commands.Queue.Declare(0, name, durable=True, arguments=dict(arguments))


async def _declare_exchange(wire: Wire, request: commands.Exchange.Declare, text: str) -> None:
    try:
        await _all(wire, [request])
    except Closed as exc:
        if exc.code != _PRECONDITION_FAILED:
            raise
        raise ConfigurationError(
            f"exchange {request.exchange!r} exists and is not a durable {request.exchange_type} exchange ({text});"
            " delete it, or use another prefix"
        ) from exc


async def _declare_queue(wire: Wire, name: str, arguments: Arguments) -> None:
    wanted = dict(arguments)
    for _ in range(len(_TAKEN_AS_FOUND) + 1):
        try:
            await _all(wire, [_queue(name, wanted)])
        except Closed as exc:
            if exc.code != _PRECONDITION_FAILED:
                raise
            taken = take_as_found(wanted, exc)
            if taken is None:
                raise ConfigurationError(
                    f"queue {name!r} exists with settings that would lose messages ({exc.text});"
                    " delete it once its backlog is worked off, or use another prefix"
                ) from exc
            _log.warning(
                "queue %r has %s, and is taken as it is; delete it once its backlog is worked off to have that changed", name, taken
            )
        else:
            return


def take_as_found(wanted: dict[str, Any], refusal: Closed) -> str | None:
    """The server names one difference at a time. What it is, and `wanted` has it as found from now on; None when that one would
    lose messages."""
    found = _INEQUIVALENT.search(refusal.text)
    if found is None or found[1] not in _TAKEN_AS_FOUND:
        return None
    argument, current = found[1], found[2]
    said = f"{argument} {current or 'unset'} instead of {wanted.get(argument)!r}"
    if current is None:
        wanted.pop(argument, None)
    else:
        wanted[argument] = int(current) if current.lstrip("-").isdigit() else current
    return said


async def check(wire: Wire, names: Names, options: Options, topology: Topology) -> None:
    """Change nothing; raise ConfigurationError with all that is missing. Settings and bindings cannot be seen over AMQP."""
    faults: list[str] = []
    try:
        await _all(wire, [commands.Exchange.Declare(0, names.exchange, "topic", passive=True)])
    except Closed as exc:
        faults.append(_fault("exchange", names.exchange, exc))
    for queue in (*queues(names, options, topology), names.defs):
        try:
            await _look_at(wire, queue)
        except Closed as exc:
            faults.append(_fault("queue", queue, exc))
    if faults:
        raise ConfigurationError(
            f"RabbitMQ lacks what service {topology.service!r} needs: {'; '.join(faults)};"
            f" run `saga-choreo broker apply --prefix {names.exchange} APP`, or let the agent declare it (SAGA_DECLARE=1)"
        )


def _fault(kind: str, name: str, error: Closed) -> str:
    return f"{kind} {name!r} is missing" if error.code == _NOT_FOUND else f"{kind} {name!r}: {error.text}"


async def is_there(wire: Wire, queue: str) -> bool:
    try:
        await _look_at(wire, queue)
    except Closed as exc:
        if exc.code != _NOT_FOUND:
            raise
        return False
    return True


async def _look_at(wire: Wire, queue: str) -> int:
    channel = wire.channel()
    found = await channel.call(commands.Queue.Declare(0, queue, passive=True), commands.Queue.DeclareOk)
    channel.leave()
    return found.message_count or 0


async def undeliverable_count(wire: Wire, names: Names) -> int:
    """How many messages the server itself has put aside."""
    return await _look_at(wire, names.undeliverable)
