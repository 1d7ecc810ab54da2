"""Topics as a plan, and what the server has against it: for `saga-choreo broker`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from saga_choreo.ports import Difference, Planned, Topology
from saga_choreo_kafka import topology as channels
from saga_choreo_kafka.names import Names
from saga_choreo_kafka.options import Options

__all__ = ["apply", "plan", "survey"]

_MORE_PARTITIONS = (
    "only so many agents of a service share the work; nothing here adds partitions, since each saga's messages would go on in"
    " another one, past those that still wait: do it while nothing is under way"
)


def _topics(names: Names, topologies: Sequence[Topology]) -> list[str]:
    each = (channels.wanted_topics(names, replace(topology, receives=True)) for topology in topologies)
    return list(dict.fromkeys(topic for topics in each for topic in topics))


def plan(names: Names, options: Options, topologies: Sequence[Topology]) -> list[Planned]:
    shapes = {topic: channels.shape(names, options, topic) for topic in _topics(names, topologies)}
    return [
        Planned("topic", topic, {"partitions": partitions, "replicas": replicas, **config})
        for topic, (partitions, replicas, config) in shapes.items()
    ]


async def apply(admin: Any, names: Names, options: Options, topologies: Sequence[Topology]) -> None:
    wanted = _topics(names, topologies)
    await channels.declare(admin, names, options, wanted)
    await channels.settled(admin, wanted)
    await channels.widened(admin, names, options, wanted)


async def survey(admin: Any, names: Names, options: Options, topologies: Sequence[Topology]) -> list[Difference]:
    wanted = _topics(names, topologies)
    configs, hidden = await channels.configs(admin, wanted)
    # All topics are asked for: one that is named might be made by the question.
    described = {one["topic"]: one["partitions"] for one in await admin.describe_topics() if one["error_code"] == 0}
    found: list[Difference] = []
    for topic in wanted:
        if topic in configs:
            faults = _faults(channels.shape(names, options, topic), configs[topic], described.get(topic, ()))
            found += [Difference("different", "topic", topic, fault) for fault in faults]
        elif topic in hidden:
            said = "this user may not look at its settings (DescribeConfigs), so they cannot be compared"
            found.append(Difference("unseen", "topic", topic, said if topic in described else f"{said}, nor whether it is there"))
        else:
            found.append(Difference("missing", "topic", topic))
    extra = sorted(topic for topic in described if topic.startswith(f"{names.prefix}.") and topic not in wanted)
    return found + [Difference("extra", "topic", topic, "no service that was named reads or publishes it") for topic in extra]


def _faults(shape: tuple[int, int, dict[str, str]], config: Mapping[str, str], partitions: Sequence[Any]) -> list[str]:
    """More than planned is no fault."""
    count, replicas, needs = shape
    found = [f"it {fault}" for fault in channels.faults(config, needs)]
    if 0 < len(partitions) < count:
        found.append(f"it has {len(partitions)} partitions, planned are {count}: {_MORE_PARTITIONS}")
    least = min((len(one["replicas"]) for one in partitions), default=replicas)
    if least < replicas:
        found.append(f"it has {least} replicas, planned are {replicas}: reassign its partitions (kafka-reassign-partitions.sh)")
    in_sync = int(config.get("min.insync.replicas", needs["min.insync.replicas"]))
    if in_sync < int(needs["min.insync.replicas"]):
        found.append(f"min.insync.replicas is {in_sync}, planned are {needs['min.insync.replicas']}: set it on the topic")
    return found
