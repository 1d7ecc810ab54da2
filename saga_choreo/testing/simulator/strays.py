"""Messages that must not count, beside those that do: garbage, definitions nobody knows, sagas from the future, words that
disagree with what is recorded, and good messages that come again long after everybody has forgotten what they are about.

Each bears a number in a header of no meaning, so that the end shows that none was lost from view: it was applied, quarantined
or kept on hold, and nothing else was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.record import Record, RecordKey
from saga_choreo.ports.broker import Outgoing
from saga_choreo.ports.store import Held, Quarantined
from saga_choreo.testing.simulator.world import World

__all__ = ["MARK", "UNKNOWN", "Kept", "Strays"]

MARK = "x-stray"
# A definition that nobody has.
UNKNOWN = "f" * 32
# Codes of messages that can be read; any other says that they cannot.
_READABLE = frozenset({"stale", "inapplicable", "from_the_future", "unknown_definition"})
# ABORT, CLEAR and OUTCOME: what they say is true for ever, so that even a saga long forgotten has an answer for them.
_ANSWERED = frozenset(
    {"step.failed", "compensation.completed", "saga.completed", "saga.failed", "saga.cancelled", "saga.timed_out"}
)
_THREE_DAYS_MS = 3 * 86_400_000


class Kept(Protocol):
    """What a store has put aside, and what it knows."""

    service: str
    quarantined: list[Quarantined]
    held: dict[int, Held]

    @property
    def records(self) -> Mapping[UUID, Mapping[RecordKey, Record]]: ...


@dataclass(frozen=True, slots=True)
class _Stray:
    """`wanted`: the code it has to be quarantined with; 'unreadable' for all that say so, 'held' when it has to be on hold; 'nothing' when
    it must not be put aside; '' for a repeated message that counts for nothing, or is stale."""

    service: str
    wanted: str


class Strays:
    """Makes them, and judges what became of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stream = world.streams.named("strays")
        self._sent: list[_Stray] = []

    def made_from(self, message: Outgoing, store: Kept) -> Outgoing | None:
        """Something like this message, for the service of this store."""
        kind = self._stream.below(5)
        headers, body = dict(message.headers), message.body
        if "ce-sagaid" not in headers:
            return None
        match kind:
            case 0:
                wanted, headers, body = "unreadable", {}, self._stream.entropy(24)
            case 1:
                wanted = "unreadable"
                del headers[self._stream.pick(("ce-sagamsg", "ce-sagaid", "ce-sagadef", "ce-time"))]
            case 2:
                wanted = "from_the_future"
                later_ms = self._world.wall_ns() // 1_000_000 + _THREE_DAYS_MS
                headers["ce-sagaid"] = headers["ce-subject"] = str(saga_id_at(later_ms, self._stream.entropy(10)))
            case 3:
                wanted, headers["ce-sagadef"] = "held", UNKNOWN
            case _:
                if not self._is_known(headers, store):
                    return None
                wanted = "inapplicable"
                if self._stream.chance(0.5):
                    headers["ce-sagadeadline"] = "2031-01-01T00:00:00.000Z"
                else:
                    headers["ce-sagaorigin"] = "stranger"
        return self._marked(message, headers, body, _Stray(store.service, wanted))

    def again(self, message: Outgoing, service: str, *, stale: bool) -> Outgoing:
        """The message once more; `stale` when nobody may know any more what it is about."""
        is_answered = message.headers.get("ce-sagamsg") in _ANSWERED
        return self._marked(
            message, dict(message.headers), message.body, _Stray(service, "stale" if stale else "nothing" if is_answered else "")
        )

    def _marked(self, message: Outgoing, headers: dict[str, str], body: bytes, stray: _Stray) -> Outgoing:
        headers[MARK] = str(len(self._sent))
        self._sent.append(stray)
        return Outgoing(message.channel, message.key, headers, body, message.must_route)

    def _is_known(self, headers: Mapping[str, str], store: Kept) -> bool:
        rows = store.records.get(UUID(headers["ce-sagaid"]), {})
        return any(key.definition == headers["ce-sagadef"] for key in rows)

    def judge(self, stores: Sequence[Kept]) -> None:
        """Nothing but strays is put aside, each as it has to be; and all of them are."""
        seen: set[int] = set()
        for store in stores:
            for one in store.quarantined:
                self._world.saw(f"quarantined: {one.code if one.code in _READABLE else 'unreadable'}")
                self._put_aside(store.service, one.code, one.headers, seen, f"quarantined ({one.code}: {one.detail})")
            for waiting in store.held.values():
                self._world.saw("kept on hold for a definition nobody knows")
                self._put_aside(store.service, "held", waiting.headers, seen, "still on hold")
        for number, stray in enumerate(self._sent):
            if stray.wanted not in ("", "nothing") and number not in seen:
                self._world.broken(
                    "L5", f"a message to {stray.service!r} that can never be applied ({stray.wanted}) is lost from view"
                )

    def _put_aside(self, service: str, code: str, headers: Mapping[str, str], seen: set[int], how: str) -> None:
        number = headers.get(MARK)
        if number is None:
            self._world.broken("L5", f"a good message is {how} at {service!r}")
            return
        wanted = self._sent[int(number)].wanted
        is_right = code == (wanted or "stale") or (wanted == "unreadable" and code not in _READABLE and code != "held")
        if not is_right:
            self._world.broken("L5", f"a message that should be put aside as {wanted!r} is {how} at {service!r}")
        seen.add(int(number))
