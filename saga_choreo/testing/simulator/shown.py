"""Operations of the pipeline in words, for traces."""

from __future__ import annotations

from saga_choreo.runtime.operations import Ack, Execute, Operation, Publish, Release, Save

__all__ = ["shown"]


def shown(operation: Operation) -> str:
    match operation:
        case Save(records=records):
            rows = ", ".join(f"{r.step}:{r.row.state.value}{'!' if r.row.abort else ''} v{r.version}" for r in records)
            counted = "".join(f" {name}+{count}" for (_, name), count in operation.counters.items())
            return f"Save {rows}{counted}"
        case Execute(record=record, duty=duty, inside=inside):
            return f"Execute {record.step} {duty.value} {'inside' if inside else 'outside'} attempt {record.row.attempt}"
        case Publish(publications=publications, loose=loose):
            return f"Publish {', '.join(f'{p.key.step} v{p.version} x{len(p.messages)}' for p in publications)} +{len(loose)}"
        case Ack(deliveries=deliveries) | Release(deliveries=deliveries):
            return f"{type(operation).__name__} {len(deliveries)}"
        case _:
            return type(operation).__name__
