"""Streams and durables: declared where they are missing, widened where they are too narrow, refused where they would lose messages.

Declaring again is cheap and safe at any time, so it is also the cure for a stream or durable that somebody deleted.
A new durable reads from the beginning: what some reader has not worked off yet, and what was not trimmed since (`trimming`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Channel, ChannelKind, Topology
from saga_choreo_nats.names import Names
from saga_choreo_nats.options import Options

__all__ = ["GROUP", "bindings", "check", "declare", "durable_faults", "fatal", "knows_ranks", "narrower", "streams", "word"]

_MAX_WAITING = 512
# The pull requests of a durable's one group are served by their priority, from this version of the server on.
GROUP = "agents"
_RANKS_SINCE = (2, 12)
_LOOKS_MAX = 5
# Another agent declared the same thing between our look and our call.
_ALREADY_THERE = (10058, 10148)


def streams(names: Names, options: Options) -> list[StreamConfig]:
    kept: dict[str, Any] = {
        "retention": RetentionPolicy.LIMITS,
        "storage": StorageType.FILE,
        "discard": DiscardPolicy.NEW,
        "max_age": options.horizon,
        "num_replicas": options.replicas,
    }
    limits: dict[str, Any] = {"retention": RetentionPolicy.LIMITS, "storage": StorageType.FILE, "num_replicas": options.replicas}
    control = [names.all_control, names.outcome]
    return [
        StreamConfig(name=names.events, subjects=[names.all_events], max_bytes=options.events_max_bytes, **kept),
        StreamConfig(name=names.control, subjects=control, max_bytes=options.control_max_bytes, **kept),
        StreamConfig(name=names.defs, subjects=[names.all_defs], max_msgs_per_subject=1, max_age=0, **limits),
        StreamConfig(name=names.dlq, subjects=[f"{names.prefix}.dlq"], discard=DiscardPolicy.NEW, max_age=0, **limits),
    ]


def bindings(names: Names, topology: Topology) -> dict[str, list[str]]:
    """Stream -> subjects that the service's durable reads there."""
    if not topology.receives:
        return {}
    control = [names.subject(Channel(ChannelKind.CONTROL, topology.service)), names.outcome]
    events = sorted({names.subject(Channel(ChannelKind.EVENT, event)) for event in topology.events})
    return {names.events: events, names.control: control} if events else {names.control: control}


@dataclass
class _Ranked(ConsumerConfig):
    """With the settings that nats-py does not know; None is not sent."""

    priority_groups: list[str] | None = None
    priority_policy: str | None = None


def knows_ranks(client: Any) -> bool:
    version = client.connected_server_version
    try:
        return bool((version.major, version.minor) >= _RANKS_SINCE)
    except ValueError:  # a build that calls itself something else
        return False


def _durable(names: Names, options: Options, service: str, subjects: list[str], *, ranked: bool) -> ConsumerConfig:
    name = names.durable(service)
    return _Ranked(
        priority_groups=[GROUP] if ranked else None,
        priority_policy="prioritized" if ranked else None,
        name=name,
        durable_name=name,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=options.ack_wait,
        max_deliver=-1,
        max_ack_pending=options.max_ack_pending,
        max_waiting=_MAX_WAITING,
        filter_subjects=subjects,
    )


async def declare(js: Any, names: Names, options: Options, topology: Topology, *, ranked: bool) -> None:
    """Make everything this agent needs; `ranked` where the server knows ranks. Raises ConfigurationError where what is there would lose messages."""
    for wanted in streams(names, options):
        try:
            await _declare_stream(js, wanted)
        except (BadRequestError, APIError) as exc:
            if getattr(exc, "err_code", None) not in _ALREADY_THERE:
                raise
    for stream, subjects in bindings(names, topology).items():
        wanted_durable = _durable(names, options, topology.service, subjects, ranked=ranked)
        await _declare_durable(js, stream, wanted_durable)


async def _declare_durable(js: Any, stream: str, wanted: ConsumerConfig) -> None:
    """Another release of the service may read other events, and runs beside this one: nothing is ever narrowed here. Two that
    widen at once may overwrite each other, so each looks again."""
    mine = set(wanted.filter_subjects or ())
    for _ in range(_LOOKS_MAX):
        has = await _filters(js, stream, str(wanted.durable_name))
        if has is not None and mine <= has:
            mine = has
        wanted.filter_subjects = sorted(mine | (has or set()))
        try:
            await js.add_consumer(stream, wanted)
        except BadRequestError as exc:
            raise ConfigurationError(
                f"durable {wanted.durable_name!r} of stream {stream!r} exists with settings that cannot be changed"
                f" ({exc.description}); delete it once its backlog is worked off, or use another prefix"
            ) from exc
        if has is not None and mine <= has:
            return


async def _filters(js: Any, stream: str, durable: str) -> set[str] | None:
    """None where there is no such durable. Without filters it reads all there is."""
    try:
        config = (await js.consumer_info(stream, durable)).config
    except NotFoundError:
        return None
    return set(config.filter_subjects or ([config.filter_subject] if config.filter_subject else ()))


async def _declare_stream(js: Any, wanted: StreamConfig) -> None:
    try:
        found = (await js.stream_info(wanted.name)).config
    except NotFoundError:
        await js.add_stream(wanted)
        return
    faults = fatal(wanted, found)
    if faults:
        raise ConfigurationError(
            f"stream {wanted.name!r} would lose messages: {'; '.join(faults)}; correct it, or use another prefix"
        )
    if narrower(wanted, found):
        subjects = sorted({*(found.subjects or ()), *(wanted.subjects or ())})
        longest = max(found.max_age or 0, wanted.max_age or 0) if found.max_age and wanted.max_age else 0
        await js.update_stream(found, subjects=subjects, max_age=longest)


def fatal(wanted: StreamConfig, found: StreamConfig) -> list[str]:
    """What cannot be mended in place, or must not be changed behind an operator's back. Interest retention loses nothing either: it is
    only slower."""
    return [
        f"{what} is {word(has)!r}, needed is {word(needs)!r}"
        for what, has, needs in (
            ("retention", found.retention, wanted.retention),
            ("storage", found.storage, wanted.storage),
            ("discard", found.discard, wanted.discard),
            ("max_msgs_per_subject", found.max_msgs_per_subject, wanted.max_msgs_per_subject),
            ("no_ack", bool(found.no_ack), False),
        )
        if word(has) != word(needs) and not (what == "retention" and word(has) == "interest" and wanted.max_age)
    ]


def word(value: Any) -> str:
    return str(getattr(value, "value", value))


def narrower(wanted: StreamConfig, found: StreamConfig) -> bool:
    shorter = bool(found.max_age) and (not wanted.max_age or found.max_age < wanted.max_age - 1)  # type: ignore[operator]  # not None: checked
    return shorter or not set(wanted.subjects or ()) <= set(found.subjects or ())


async def check(js: Any, names: Names, options: Options, topology: Topology) -> None:
    """Change nothing; raise ConfigurationError with all that is missing or wrong."""
    faults: list[str] = []
    for wanted in streams(names, options):
        try:
            found = (await js.stream_info(wanted.name)).config
        except NotFoundError:
            faults.append(f"stream {wanted.name!r} is missing")
            continue
        faults += [f"stream {wanted.name!r}: {fault}" for fault in fatal(wanted, found)]
        if missing := set(wanted.subjects or ()) - set(found.subjects or ()):
            faults.append(f"stream {wanted.name!r} lacks subjects {sorted(missing)!r}")
    for stream, subjects in bindings(names, topology).items():
        faults += await durable_faults(js, stream, names.durable(topology.service), subjects)
    if faults:
        raise ConfigurationError(
            f"NATS lacks what service {topology.service!r} needs: {'; '.join(faults)};"
            f" run `saga-choreo broker apply --prefix {names.prefix} APP`, or let the agent declare it (SAGA_DECLARE=1)"
        )


async def durable_faults(js: Any, stream: str, durable: str, subjects: list[str]) -> list[str]:
    where = f"durable {durable!r} of stream {stream!r}"
    try:
        found = (await js.consumer_info(stream, durable)).config
    except NotFoundError:
        return [f"{where} is missing"]
    faults: list[str] = []
    has = set(found.filter_subjects or ([found.filter_subject] if found.filter_subject else ()))
    if has and (missing := set(subjects) - has):
        faults.append(f"{where} lacks filter subjects {sorted(missing)!r}")
    if found.ack_policy != AckPolicy.EXPLICIT.value:
        faults.append(f"{where} has ack policy {word(found.ack_policy)!r}, needed is 'explicit'")
    if found.max_deliver not in (None, -1):
        faults.append(f"{where} gives up after {found.max_deliver} deliveries, needed is -1 (never)")
    return faults
