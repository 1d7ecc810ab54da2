"""What our client writes for a message is what nats-py writes, byte for byte but for a blank, and what is strange is left to nats-py."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import BadHeaderError, BadSubjectError, MaxPayloadError

from saga_choreo_nats.link import _Client, _plain_command, _plain_headers
from saga_choreo_nats.sink import Sink

_PLAIN = {"ce-id": "01a2-x", "ce-sagareason": "a b", "content-type": "application/json"}
_WORD = st.text("abc-XYZ:;\u00fc\t\r\n 019", max_size=6)


def _written(
    kind: type[Client], subject: str, payload: bytes, reply: str, headers: dict[str, str] | None
) -> bytes | type[Exception]:
    async def scenario() -> bytes:
        client, written = kind(), list[bytes]()

        async def send(command: bytes, priority: bool = False) -> None:
            assert not priority
            written.append(bytes(command))

        client._send_command = send  # type: ignore[method-assign]  # no server hears it
        client._status = Client.CONNECTED
        client._max_payload = 100
        await client.publish(subject, payload, reply, headers)
        assert (client.stats["out_msgs"], client.stats["out_bytes"]) == (1, len(payload))
        (command,) = written
        return command.replace(f"{subject}  ".encode(), f"{subject} ".encode(), 1)

    try:
        return asyncio.run(scenario())
    except (BadHeaderError, BadSubjectError, MaxPayloadError) as error:
        return type(error)


@pytest.mark.parametrize(
    ("subject", "payload", "reply", "headers"),
    [
        ("saga.event.a", b"{}", "_INBOX.x.7", _PLAIN),
        ("$JS.ACK.a.b.1.2.3.4", b"", "", None),
        ("saga.event.a", b"", "", {}),
        ("saga.event.a", b"{}", "", {"a": ""}),
        ("saga.event.a", b"{}", "", {"a": " b "}),
        ("saga.event.a", b"{}", "", {"a": "b\r\nc: d"}),
        ("saga.event.a", b"{}", "", {"a: b": "c"}),
        ("saga.event.a", b"{}", "", {"a": "\u00fc"}),
        ("saga.event.a", b"{}", "", {"a b": "c"}),
        ("saga event", b"{}", "", _PLAIN),
        ("saga.event.a", b"{}", "to me", _PLAIN),
        ("", b"{}", "", None),
        ("saga.event.a", bytes(101), "", _PLAIN),
    ],
)
def test_both_write_the_same(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
    assert _written(_Client, subject, payload, reply, headers) == _written(Client, subject, payload, reply, headers)


@given(st.dictionaries(_WORD, _WORD, max_size=3), st.binary(max_size=8))
def test_both_write_the_same_for_any_headers(headers: dict[str, str], payload: bytes) -> None:
    assert _written(_Client, "a", payload, "", headers) == _written(Client, "a", payload, "", headers)


def test_what_agents_write_is_not_left_to_nats_py() -> None:
    assert _plain_command("saga.event.a", b"{}", "_INBOX.x.7", _PLAIN)
    assert _plain_command("$JS.ACK.a.b.1.2.3.4", b"", "", None)


_LINES = st.lists(
    st.tuples(_WORD, _WORD).map(": ".join) | _WORD | st.just("ce-id: 01a2-x") | st.just("ce-type: order.placed"), max_size=5
)


def _read(kind: type[Client], headers: bytes) -> list[tuple[object, ...]]:
    async def scenario() -> list[tuple[object, ...]]:
        client, said = kind(), list[tuple[object, ...]]()

        async def on_error(error: Exception) -> None:
            said.append((type(error),))

        client._error_cb = on_error
        client._subs[7] = Subscription(client, 7, "a", future=Sink(lambda *message: said.append(message)))
        await client._process_msg(7, b"a", b"b", b"{}", headers)
        await client._process_msg(8, b"a", b"b", b"{}", headers)  # nobody has subscribed
        return [*said, (client.stats["in_msgs"], client.stats["in_bytes"])] if said[0][1:] else said

    return asyncio.run(scenario())


@given(_LINES, st.sampled_from(["NATS/1.0\r\n", "NATS/1.0\r\n", "NATS/1.0 100\r\n", "NATS/1.0 503 Nobody\r\n"]))
def test_both_read_the_same_of_any_block(lines: list[str], begin: str) -> None:
    block = (begin + "".join(f"{line}\r\n" for line in [*lines, ""])).encode()
    assert _read(_Client, block) == _read(Client, block)
    assert _read(_Client, b"") == _read(Client, b"")


def test_what_a_block_has_in_common_with_another_is_not_changed_by_it() -> None:
    begin = b"NATS/1.0\r\nce-type: a\r\n"
    first = _plain_headers(begin + b"ce-id: 1\r\nce-sagakey: k\r\n\r\n")
    assert first is not None
    first["ce-type"] = "changed"
    assert _plain_headers(begin + b"ce-id: 2\r\n\r\n") == {"ce-type": "a", "ce-id": "2"}


@pytest.mark.parametrize("subjects", [[], ["$JS.ACK.a.1"], ["$JS.ACK.a.1", "$JS.ACK.a.2", "$JS.ACK.a.3"], ["a", "b b"]])
def test_the_same_to_many_is_what_it_is_to_each(subjects: list[str]) -> None:
    async def written(together: bool) -> tuple[bytes | type[Exception], dict[str, int]]:
        client, commands = _Client(), list[bytes]()

        async def send(command: bytes, priority: bool = False) -> None:
            commands.append(bytes(command))

        client._send_command = send  # type: ignore[method-assign]  # no server hears it
        client._status = Client.CONNECTED
        client._max_payload = 100
        try:
            if together:
                await client.publish_to_all(subjects, b"-NAK")
            else:
                for subject in subjects:
                    await client.publish(subject, b"-NAK")
        except BadSubjectError as error:
            return type(error), {}
        return b"".join(commands), {name: client.stats[name] for name in ("out_msgs", "out_bytes")}

    assert asyncio.run(written(True)) == asyncio.run(written(False))


def test_what_strangers_write_is_not_remembered() -> None:
    """A block may have a megabyte, and is read before its size is judged."""
    large = b"y" * 900_000
    tracemalloc.start()
    try:
        for number in range(20):
            begin = b"NATS/1.0\r\nx-%d: " % number
            _plain_headers(begin + large + b"\r\nce-id: 1\r\n\r\n")
            _plain_headers(begin + b"\xff" + large + b"\r\nce-id: 1\r\n\r\n")
            _plain_command("a", b"", "", {f"ce-{number}" + "y" * 900_000: "v"})
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000_000
