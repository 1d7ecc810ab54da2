"""Topics: made where they are missing, widened where they keep too little, refused where they would lose messages.

Declaring again is cheap and safe at any time, so it is also the cure for a topic that somebody deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo.ports import Channel, ChannelKind, Topology
from saga_choreo_kafka.bare import (
    ConfigResource,
    ConfigResourceType,
    KafkaError,
    NewTopic,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from saga_choreo_kafka.names import Names
from saga_choreo_kafka.options import Options

__all__ = ["BODY_MAX", "bindings", "check", "configs", "declare", "faults", "settled", "shape", "wanted_topics", "widened"]

_log = logging.getLogger("saga_choreo.kafka")

# What a topic takes unless it says otherwise.
BODY_MAX = 1_048_588
# Observations are for whoever looks right now.
_OBSERVE_S = 3600.0
# Every agent repeats its words for ever, and each newcomer reads them all: Kafka on its own begins to compact after a week or 1 GiB.
_COMPACTED, _COMPACTED_WITHIN_MS = "max.compaction.lag.ms", 600_000
# Two seconds in all.
_LOOKS, _LOOK_S = 40, 0.05
_SET_ON_TOPIC = 1
# Kafka's codes for a setting that is wrong, and for one that its operator does not allow.
_MAY_BE_THE_LAG = frozenset({40, 44})
_ALREADY_THERE, _NOT_PERMITTED = TopicAlreadyExistsError.errno, TopicAuthorizationFailedError.errno


def bindings(names: Names, topology: Topology) -> list[str]:
    """The topics that the service's group reads."""
    if not topology.receives:
        return []
    events = sorted({names.topic(Channel(ChannelKind.EVENT, event)) for event in topology.events})
    return [*events, names.topic(Channel(ChannelKind.CONTROL, topology.service)), names.outcome]


def wanted_topics(names: Names, topology: Topology) -> list[str]:
    """All that this agent reads or is known to publish to."""
    events = {names.topic(Channel(ChannelKind.EVENT, event)) for event in (*topology.events, *topology.known_events)}
    services = {topology.service, *topology.owners} if topology.receives else set(topology.owners)
    control = {names.topic(Channel(ChannelKind.CONTROL, service)) for service in services}
    return [*sorted(events), *sorted(control), names.outcome, names.defs, names.dlq, names.observe]


def _config(names: Names, options: Options, topic: str) -> dict[str, str]:
    if topic == names.defs:
        within = {_COMPACTED: str(_COMPACTED_WITHIN_MS)}
        return {"cleanup.policy": "compact", **within, "min.insync.replicas": str(options.min_insync)}
    kept_s = _OBSERVE_S if topic == names.observe else options.horizon
    kept_ms = "-1" if topic == names.dlq else str(int(1000 * kept_s))
    return {"cleanup.policy": "delete", "retention.ms": kept_ms, "min.insync.replicas": str(options.min_insync)}


def shape(names: Names, options: Options, topic: str) -> tuple[int, int, dict[str, str]]:
    """Partitions, replicas and settings of a topic that is made."""
    return 1 if topic == names.defs else options.partitions, options.replicas, _config(names, options, topic)


async def declare(admin: Any, names: Names, options: Options, topics: Iterable[str]) -> dict[str, int]:
    """Make what is missing; the answer is the most bytes that each of the topics takes in one record. Raises ConfigurationError where
    what is there would lose messages, and where Kafka refuses to make a topic."""
    wanted = list(topics)
    found, _ = await configs(admin, wanted)
    missing = [topic for topic in wanted if topic not in found]
    made = await _create(admin, names, options, missing) if missing else []
    limits: dict[str, int] = dict.fromkeys(missing, BODY_MAX)
    found |= await _known(admin, [topic for topic in missing if topic not in made])
    for topic, config in found.items():
        limits[topic] = int(config.get("max.message.bytes", BODY_MAX))
        needs = _config(names, options, topic)
        if fatal := _fatal(config, needs):
            raise ConfigurationError(f"topic {topic!r} {fatal}; correct it, or use another prefix")
        if _keeps_too_little(config, needs):
            await _widen(admin, topic, {**_own(config), "retention.ms": needs["retention.ms"]})
    return limits


async def _widen(admin: Any, topic: str, settings: dict[str, str]) -> None:
    for answer in await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)]):
        for code, message, *_ in answer.resources:
            if code != 0:
                _log.warning("topic %r keeps records for too short a time, and Kafka refuses to change that: %s %s",
                    topic, for_code(code).__name__, message or "")  # fmt: skip


async def check(admin: Any, names: Names, options: Options, topics: Iterable[str], service: str) -> dict[str, int]:
    """Change nothing; raise ConfigurationError with all that is missing or wrong."""
    wanted = list(topics)
    found, _ = await configs(admin, wanted)
    lacks = [f"topic {topic!r} is missing" for topic in wanted if topic not in found]
    for topic, config in found.items():
        lacks += [f"topic {topic!r} {fault}" for fault in faults(config, _config(names, options, topic))]
    if lacks:
        raise ConfigurationError(
            f"Kafka lacks what service {service!r} needs: {'; '.join(lacks)};"
            f" run `saga-choreo broker apply --prefix {names.prefix} APP`, or let the agent declare it (SAGA_DECLARE=1)"
        )
    return {topic: int(config.get("max.message.bytes", BODY_MAX)) for topic, config in found.items()}


async def widened(admin: Any, names: Names, options: Options, topics: list[str]) -> None:
    """Wait, at most a moment, until the server asked knows of settings that were just changed."""
    for _ in range(_LOOKS):
        found, _hidden = await configs(admin, topics)
        if not any(_keeps_too_little(config, _config(names, options, topic)) for topic, config in found.items()):
            return
        await asyncio.sleep(_LOOK_S)


async def settled(admin: Any, topics: Sequence[str]) -> None:
    """Wait, at most a moment, until all partitions have a leader: a topic that was just made is not known everywhere at once."""
    for _ in range(_LOOKS):
        described = await admin.describe_topics(list(topics))
        if all(topic["error_code"] == 0 and all(p["leader"] >= 0 for p in topic["partitions"]) for topic in described):
            return
        await asyncio.sleep(_LOOK_S)


async def _known(admin: Any, topics: list[str]) -> dict[str, dict[str, str]]:
    """Settings of topics that somebody else made a moment ago, once the server asked knows them; it is given a moment."""
    for _ in range(_LOOKS if topics else 0):
        found, hidden = await configs(admin, topics)
        if found.keys() | hidden >= set(topics):
            return found
        await asyncio.sleep(_LOOK_S)
    return {}


async def _create(admin: Any, names: Names, options: Options, topics: list[str]) -> list[str]:
    """Those that were made. What is not among them was there already."""
    return await _create_as(admin, options, {topic: shape(names, options, topic) for topic in topics})


async def _create_as(admin: Any, options: Options, shapes: Mapping[str, tuple[int, int, dict[str, str]]]) -> list[str]:
    new = [NewTopic(topic, count, replicas, topic_configs=config) for topic, (count, replicas, config) in shapes.items()]
    answer = await admin.create_topics(new, timeout_ms=int(options.request_timeout * 1000 / 2))
    made: list[str] = []
    for topic, code, *message in answer.topic_errors:
        if code == 0:
            made.append(topic)
        if code in (0, _ALREADY_THERE):
            continue
        count, replicas, config = shapes[topic]
        if code in _MAY_BE_THE_LAG and _COMPACTED in config:  # some who run Kafka for others set this themselves
            kept = {name: value for name, value in config.items() if name != _COMPACTED}
            made += await _create_as(admin, options, {topic: (count, replicas, kept)})
            _log.warning("topic %r was made without %s, which Kafka refuses: agents may take long to start", topic, _COMPACTED)
            continue
        error = for_code(code)
        if getattr(error, "retriable", False):
            raise BrokerUnavailable(f"Kafka could not make topic {topic!r} now ({error.__name__}); try again")
        raise ConfigurationError(
            f"Kafka refused to make topic {topic!r} ({error.__name__}: {(message or [''])[0]}); correct partitions, replicas or the "
            "rights of this user, or make the topic and open with create=False"
        )
    return made


async def configs(admin: Any, topics: list[str]) -> tuple[dict[str, dict[str, str]], set[str]]:
    """Settings of the topics that are there, and the topics that this user may not look at. Asked of one broker only: whoever has
    just come up may not know them yet."""
    found: dict[str, dict[str, str]] = {}
    hidden: set[str] = set()
    try:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics])
    except KafkaError as exc:
        raise BrokerUnavailable(f"Kafka does not say how its topics are set ({exc!r}); try again") from exc
    for answer in answers:
        for code, _message, _kind, name, entries in answer.resources:
            if code == 0:
                own = (entry[0] for entry in entries if entry[3] == _SET_ON_TOPIC)
                found[name] = {entry[0]: entry[1] for entry in entries} | {"": ",".join(own)}
            elif code == _NOT_PERMITTED:
                hidden.add(name)
    return found, hidden


def _own(config: Mapping[str, str]) -> dict[str, str]:
    """What was set on this very topic: altering replaces all of it."""
    return {name: config[name] for name in config[""].split(",") if name}


def faults(config: Mapping[str, str], needs: Mapping[str, str]) -> list[str]:
    """What an agent that may not declare refuses a topic for."""
    fatal = _fatal(config, needs)
    found = [fatal] if fatal else []
    if _keeps_too_little(config, needs):
        found.append(f"keeps records for {config['retention.ms']} ms, needed are {needs['retention.ms']}")
    return found


def _fatal(config: Mapping[str, str], needs: Mapping[str, str]) -> str:
    """What must not be changed behind an operator's back."""
    policy = config.get("cleanup.policy", needs["cleanup.policy"])
    if policy == needs["cleanup.policy"]:
        return ""
    return f"would lose messages: its cleanup.policy is {policy!r}, needed is {needs['cleanup.policy']!r}"


def _keeps_too_little(config: Mapping[str, str], needs: Mapping[str, str]) -> bool:
    if "retention.ms" not in needs or "retention.ms" not in config:
        return False
    has, wants = int(config["retention.ms"]), int(needs["retention.ms"])
    return has != -1 and (wants == -1 or has < wants)
