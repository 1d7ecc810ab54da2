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
    quarantine                    number -> message, as it came. quarantined:<s>, letters:<s>:<state>: by number; came:<s>: number ->
                                  received_ms; quarantine:<s>: number -> since when it may be forgotten (not what is archived)
    moved, tried                  number -> what was said of a quarantined message since: its state; its last try, after their count
    held                          number -> message. held:<s>:<definition>: by number; waiting:<s>, told:<s>: number -> received_ms
    job:<id>                      hash: row, version, owner. items:<id>: place -> item; items:<id>:<state>: by place
    jobs:<s>, active:<s>          jobs, and those that are not over, by id; over:<s>: id -> finished_ms
    lock:<s>, counter:<s>         name -> saga; name -> value
    definition, holder:<hash>     hash -> canonical bytes; set of services
"""

from __future__ import annotations

from uuid import UUID

from saga_choreo.ports import ORIGIN, Record, RecordKey

__all__ = ["Keys", "key_of", "letter_block", "member_of", "place_in", "saga_of"]

_LETTER_STATES = ("open", "archived", "resolved")


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


def letter_block(keys: Keys, service: str) -> list[str]:
    """The indexes of a service's quarantined messages, in the order in which the scripts on letters take them."""
    indexes = [keys(name, service) for name in ("quarantined", "came", "quarantine")]
    return indexes + [keys("letters", service, state) for state in _LETTER_STATES]


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
