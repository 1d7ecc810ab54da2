"""Names of keys and of what is in them: all that the store keeps begins with `{prefix}:`.

The prefix is the hash tag, so that all of one store is in one slot and a script never leaves it. Stores that share a server take
prefixes of their own. Sorted sets are the indexes; where all scores are 0 they are sorted by their members, which begin with the
saga's id, and so with the time it started.

    meta                          schema version, incarnation, last number
    services                      set: services with anything here
    saga:<service>:<id>           hash, one per saga: rev; per record r<place> (packed), v<place> (version), a<place> (announced)
    due:<service>                 record -> due_ms
    untold:<service>              record -> changed_ms, while announced < version; origin rows in starts:<service>
    parked:<service>              records that wait for a person, by id
    ended:<service>               records that may be forgotten, by id
    sagas:<service>[:<name>]      sagas, by id; also by choreography
    key, keys:<service>           business keys; and by saga id. choreographies:<service>: the names they are kept under
    quarantine                    number -> message. quarantined:<s>: by number; quarantine:<s>: number -> received_ms
    held                          number -> message. held:<s>:<definition>: by number; waiting:<s>, told:<s>: number -> received_ms
    lock:<s>, counter:<s>         name -> saga; name -> value
    definition, holder:<hash>     hash -> canonical bytes; set of services
"""

from __future__ import annotations

from uuid import UUID

from saga_choreo.ports import ORIGIN, Record, RecordKey

__all__ = ["Keys", "key_of", "member_of", "place_in", "saga_of"]


class Keys:
    """Key names under one prefix."""

    __slots__ = ("prefix",)

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __call__(self, *parts: str) -> str:
        return f"{{{self.prefix}}}:{':'.join(parts)}"

    def saga(self, service: str, saga_id: UUID) -> str:
        return self("saga", service, saga_id.hex)

    def unannounced(self, record: Record) -> str:
        return self.untold(record.service, record.step)

    def untold(self, service: str, step: int) -> str:
        return self("starts" if step == ORIGIN else "untold", service)


def place_in(record: Record | RecordKey) -> str:
    """Which record of its saga's hash."""
    return f"{record.definition}:{record.step}"


def member_of(record: Record | RecordKey) -> str:
    """How an index names the record."""
    return f"{record.saga_id.hex}:{record.definition}:{record.step}"


def key_of(member: bytes) -> RecordKey:
    saga_id, definition, step = member.decode().split(":")
    return RecordKey(UUID(hex=saga_id), definition, int(step))


def saga_of(member: bytes) -> UUID:
    return UUID(hex=member[:32].decode())
