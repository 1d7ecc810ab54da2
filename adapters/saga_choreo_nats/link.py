"""One connection that is kept up: connects, watches, and replaces a dead client with a fresh one.

nats-py's own reconnecting is switched off. After a timed-out flush its read loop may be dead while it says it is connected,
its buffers outlive the connection, and its pace is not ours. Here a client lives exactly as long as its TCP connection:
what was in flight then is reported as unknown, and a new client starts clean. Liveness is an echo through the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from itertools import cycle
from typing import Any

from nats import errors as nats_errors
from nats.aio.client import Client

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo_nats.ending import end
from saga_choreo_nats.options import Options
from saga_choreo_nats.sink import Sink

__all__ = ["Link"]

_log = logging.getLogger("saga_choreo.nats")

# Four ticks without an echo (6 s) mean dead. Ticks, not seconds: a blocked event loop must not look like a dead server.
_TICK_S = 1.5
_MISSED_TICKS_MAX = 4
# The first attempt comes soon (a server that merely restarted), the later ones at 1.6 s on average: below one a second.
_FIRST_RETRY_S = 0.3
_RETRY_S = 1.6
_DISCARD_S = 2.0
# nats-py never blocks in publish() as long as less than this is pending; `Link.busy` keeps us far below.
_CLIENT_BUFFER_BYTES = 256 * 1024 * 1024
_BUSY_BYTES = 32 * 1024 * 1024


_VERSION = b"NATS/1.0\r\n"
# A header block without anything strange in it, and its lines.
_PLAIN_BLOCK = re.compile(rb"(?:[!-9;-~]+: [!-~](?:[ -~]*[!-~])?\r\n)+\r\n")
_PLAIN_LINE = re.compile(r"([^:]+): ([^\r]+)\r\n")
_PLAIN_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# What our agents write begins with the facts that are the same for all sagas; here begins what is not.
_VARIABLE = b"\r\nce-id: "


# Only of blocks that our own agents could have written: a stranger's may have a megabyte.
_BLOCK_BYTES_MAX = 16_384
_FIXED_BYTES_MAX = 2_048


@lru_cache(maxsize=256)
def _are_plain_names(*names: str) -> bool:
    return all(map(_PLAIN_NAME.fullmatch, names))


def _is_plain_subject(subject: str) -> bool:
    return subject.isascii() and subject.isprintable() and bool(subject) and " " not in subject


@lru_cache(maxsize=1024)
def _plain_lines(lines: bytes) -> dict[str, str] | None:
    """A block that ends with a line, or None where there is anything strange in it. Shared: to be copied."""
    return dict(_PLAIN_LINE.findall(lines.decode("ascii"))) if _PLAIN_BLOCK.fullmatch(lines + b"\r\n") else None


def _plain_command(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> bytes | None:
    """What is written for a message; None where there is anything strange in it."""
    if not _is_plain_subject(subject) or (reply and not _is_plain_subject(reply)):
        return None
    to = f"{subject} {reply}" if reply else subject
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (to.encode(), len(payload), payload) if headers is None else None
    values = "".join(headers.values())
    lines = "\r\n".join(map(": ".join, headers.items()))
    # No lines of their own in the values, no space at either end of one, and none that is empty.
    plain = (
        len(lines) <= _BLOCK_BYTES_MAX
        and values.isprintable()
        and lines.isascii()
        and ":  " not in lines
        and " \r" not in lines
        and lines[-1] != " "
    )
    if not plain or not _are_plain_names(*headers):
        return None
    size = len(_VERSION) + len(lines) + 4
    return f"HPUB {to} {size} {size + len(payload)}\r\nNATS/1.0\r\n{lines}\r\n\r\n".encode("ascii") + payload + b"\r\n"


def _plain_headers(block: bytes) -> dict[str, str] | None:
    """The headers of a message; None where there is anything strange in them."""
    if not block.startswith(_VERSION) or len(block) > _BLOCK_BYTES_MAX:
        return None
    at = block.find(_VARIABLE, 0, _FIXED_BYTES_MAX) + 2
    fixed = _plain_lines(block[len(_VERSION) : at]) if at > len(_VERSION) else {}
    rest = block[max(at, len(_VERSION)) :]
    if fixed is None or not _PLAIN_BLOCK.fullmatch(rest):
        return None
    return fixed | dict(_PLAIN_LINE.findall(rest.decode("ascii")))


class _Client(Client):
    """nats-py answers `tls://` in clear text when the server offers no TLS, password included. This one does not. And it writes and reads
    what agents send in a third of the time."""

    async def publish(self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        command = self.prepared(subject, payload, reply, headers)
        if command is None:
            await super().publish(subject, payload, reply, headers)
        else:
            await self.send((command,), len(payload))

    async def publish_to_all(self, subjects: Sequence[str], payload: bytes) -> None:
        """The same few bytes to each of these."""
        commands = [self.prepared(subject, payload) for subject in subjects]
        plain = [command for command in commands if command is not None]
        if len(plain) < len(commands):
            for subject in subjects:
                await self.publish(subject, payload)
        else:
            await self.send(plain, len(plain) * len(payload))

    def prepared(self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None) -> bytes | None:
        """What is to be sent for a message; None where `publish` has to look closer."""
        if len(payload) > self._max_payload or not self.is_connected or self.is_draining_pubs:
            return None
        return _plain_command(subject, payload, reply, headers)

    async def send(self, commands: Sequence[bytes], payload_bytes: int) -> None:
        """What was `prepared` for some messages, in one write."""
        self.stats["out_msgs"] += len(commands)
        self.stats["out_bytes"] += payload_bytes
        await self._send_command(b"".join(commands))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def let_end(self, subscription: Any) -> None:
        """The server sends it no more; what it has sent until now is still heard when `flush` returns."""
        await self.send((b"UNSUB %d\r\n" % subscription._id,), 0)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        subscription: Any = self._subs.get(sid)
        sink: Any = subscription._future if subscription is not None else None
        found = _plain_headers(headers) if headers else None
        if not isinstance(sink, Sink) or (headers and found is None):
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        sink.hear(subject.decode(), reply.decode(), data, found)

    def _connect_command(self) -> bytes:
        server: Any = self._current_server
        if server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise nats_errors.SecureConnRequiredError
        return super()._connect_command()


class Link:
    """`on_up` prepares a fresh client (subscriptions, channels); `on_down` answers what was in flight. Both are ours."""

    def __init__(
        self, options: Options, name: str, on_up: Callable[[Any], Awaitable[None]], on_down: Callable[[str], None]
    ) -> None:
        self._options = options
        self._name = name
        self._on_up = on_up
        self._on_down = on_down
        self._servers = cycle(random.sample(options.servers, len(options.servers)))
        self._lost = asyncio.Event()
        self._echo = ""
        self._echoed = False
        self._task: asyncio.Task[None] | None = None
        self.client: Any = None
        self.up = asyncio.Event()
        self.losses = 0
        # Set by whoever notices that a stream or durable is missing.
        self.damaged = asyncio.Event()
        # Called when the connection is lost, by whoever waits for something on the old client.
        self.on_lost: set[Callable[[], None]] = set()

    @property
    def max_payload(self) -> int:
        return int(self.client.max_payload)

    @property
    def busy(self) -> bool:
        """So much is waiting to be written that the connection cannot be healthy."""
        return bool(self.client.pending_data_size > _BUSY_BYTES)

    def need(self) -> Any:
        """The client, or BrokerUnavailable while the connection is down."""
        if not self.up.is_set():
            raise self.down()
        return self.client

    def down(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"NATS at {self._options.shown!r} is not connected; it is being reconnected, try again")

    async def open(self) -> None:
        """Connect for the first time, within `open_timeout`; then keep the connection up until `close`."""
        reason, has_said = "no answer", False
        deadline = asyncio.get_running_loop().time() + self._options.open_timeout
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._connect()
                break
            except ConfigurationError:
                raise
            except (OSError, TimeoutError, nats_errors.Error, BrokerUnavailable) as exc:
                reason = str(exc) or reason
            if not has_said:
                has_said = True
                _log.warning("NATS at %s cannot be reached yet (%s); trying again", self._options.shown, reason)
            delay = _RETRY_S * (0.5 + random.random())  # noqa: S311  (jitter, not a secret)
            if asyncio.get_running_loop().time() + delay >= deadline:
                raise BrokerUnavailable(
                    f"NATS at {self._options.shown!r} cannot be reached ({reason}); start it or correct the broker URL"
                )
            await asyncio.sleep(delay)
        self._task = asyncio.create_task(self._keep_up(), name="saga-nats-link")

    async def close(self) -> None:
        """Stop watching, write out what is pending for at most a moment, disconnect."""
        if self._task is not None:
            await end(self._task)
            self._task = None
        client, self.client = self.client, None
        was_up = self.up.is_set()
        self.up.clear()
        if client is not None:
            if was_up:
                with contextlib.suppress(nats_errors.Error, OSError, TimeoutError):
                    async with asyncio.timeout(_DISCARD_S):
                        await client.flush(timeout=_DISCARD_S)
            await self._discard(client)

    async def _connect(self) -> None:
        """One attempt at one server; leaves a client that is up and prepared, or nothing."""
        client: Any = _Client()
        lost = asyncio.Event()
        connecting = True

        async def on_error(exc: Exception) -> None:
            if connecting:
                raise exc  # nats-py would try again by itself, without a pause worth the name
            if isinstance(exc, OSError | nats_errors.UnexpectedEOF):
                lost.set()
            else:
                _log.warning("NATS reported: %s", exc)

        async def on_closed() -> None:
            lost.set()

        try:
            async with asyncio.timeout(2 * self._options.connect_timeout):
                await client.connect(
                    next(self._servers),
                    name=self._name,
                    error_cb=on_error,
                    closed_cb=on_closed,
                    allow_reconnect=False,
                    connect_timeout=self._options.connect_timeout,
                    ping_interval=3600,
                    pending_size=_CLIENT_BUFFER_BYTES,
                    tls=self._options.tls(),
                )
            connecting = False
            await self._watch_echo(client)
            self._lost, self.client = lost, client
            await self._on_up(client)
            self.up.set()
        except BaseException as exc:
            connecting = False
            self.client = None
            await self._discard(client)
            if isinstance(exc, nats_errors.Error) and "authorization" in str(exc).lower():
                raise ConfigurationError(
                    f"NATS at {self._options.shown!r} refused the credentials; correct user, password or token in the broker URL"
                ) from exc
            if isinstance(exc, nats_errors.SecureConnRequiredError):
                raise ConfigurationError(
                    f"NATS at {self._options.shown!r} offers no TLS; configure it on the server, or write nats:// in the broker URL"
                ) from exc
            raise

    async def _watch_echo(self, client: Any) -> None:
        def take(_subject: str, _reply: str, _data: bytes, _headers: Mapping[str, str] | None) -> None:
            self._echoed = True

        self._echo = client.new_inbox()
        await client.subscribe(self._echo, future=Sink(take))

    async def _keep_up(self) -> None:
        while True:
            reason = await self._until_dead()
            self.up.clear()
            self.losses += 1
            client, self.client = self.client, None
            _log.warning("connection to NATS at %s lost (%s); reconnecting", self._options.shown, reason)
            self._on_down(reason)
            for call in tuple(self.on_lost):
                call()
            await self._discard(client)
            await self._reconnect()
            _log.warning("connection to NATS at %s is back", self._options.shown)

    async def _until_dead(self) -> str:
        missed = 0
        while missed < _MISSED_TICKS_MAX:
            self._echoed = False
            with contextlib.suppress(nats_errors.Error):
                await self.client.publish(self._echo, b"")
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._lost.wait()
                return "closed by the server or the network"
            except TimeoutError:
                missed = 0 if self._echoed else missed + 1
        return f"no answer for {_TICK_S * _MISSED_TICKS_MAX:.0f} s"

    async def _reconnect(self) -> None:
        delay = _FIRST_RETRY_S
        said = ""
        while True:
            await asyncio.sleep(delay * (0.5 + random.random()))  # noqa: S311  (jitter, not a secret)
            delay = _RETRY_S
            try:
                await self._connect()
                return
            except (OSError, TimeoutError, nats_errors.Error, BrokerUnavailable):
                continue  # the outage was told when it began
            except Exception as exc:  # noqa: BLE001  (whatever it is, giving up for ever would be worse)
                if str(exc) != said:
                    said = str(exc)
                    _log.error("cannot reconnect: %s", exc)

    async def _discard(self, client: Any) -> None:
        """Drop a client for good. The socket is aborted first: nats-py's close() would wait for a dead peer to read."""
        transport = getattr(client, "_transport", None)
        writer = getattr(transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_DISCARD_S):
                await client.close()
