"""Everything of aiokafka that is not in its documentation, in one place: it ships no types, and its clients know no pace and no end.

aiokafka reconnects by itself, from several loops at once, ten times a second each. `Pace` gives all clients of one broker object one
turn after the other. Its `stop` may wait for ever for a server that is gone (an idempotent producer never gives up); `discard` ends
a client in bounded time. Kept apart so that an upgrade of aiokafka has one file to look at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo_kafka.bare import (
    AIOKafkaAdminClient,
    AIOKafkaConsumer,
    AIOKafkaProducer,
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    DescribeGroupsRequest,
    IllegalSaslStateError,
    KafkaError,
    LeaveGroupRequest,
    MemberAssignment,
    SaslAuthenticationFailed,
    TopicPartition,
    UnsupportedSaslMechanismError,
    create_conn,
)
from saga_choreo_kafka.options import Options

__all__ = [
    "Pace",
    "committed_offsets",
    "discard",
    "fail_batches",
    "has_batch_waiting",
    "make_admin",
    "make_consumer",
    "make_producer",
    "member_of",
    "partitions_of",
    "probe",
    "put_out",
    "start_consumer",
    "working_members",
]

# The first attempt comes soon (a server that merely restarted), the later ones at 1.6 s on average: below one a second.
_FIRST_RETRY_S = 0.3
_RETRY_S = 1.6
# aiokafka asks for metadata again and again, without a pause, while a partition has no leader.
_METADATA_PAUSE_S = 0.1
_METADATA_AGE_S = 10.0
_STOP_S = 2.0
# While what was fetched of some partitions is not taken yet, a fetch leaves these out, and waits `fetch_max_wait_ms` for the others,
# which are often idle: all that has come to the first ones meanwhile waits with it. aiokafka takes 0.1 s for slow.
_TAKEN_S = 0.5
# The clients of one broker object come back one after the other: only the first of them waits.
_SETTLED_S = 2.0
# How long a rebalance waits for members that do not come, however long their session is: an agent that starts where another one died
# waits for it.
_REBALANCE_S = 3.0
_REFUSED = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)


class _NoSecrets(logging.Filter):
    """At level DEBUG aiokafka logs all that it sends, passwords included."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        return not any(type(arg).__name__.startswith("SaslAuthenticate") for arg in args)


logging.getLogger("aiokafka.conn").addFilter(_NoSecrets())


class Pace:
    """When the next attempt at a connection may be made. All clients of one broker object share it."""

    def __init__(self) -> None:
        self._failed = 0
        self._dropped_at = 0.0
        self._next = 0.0
        self._changed = asyncio.Event()
        self.closing = False
        # What was last seen of a connection, whoever's it is: of several nodes one may be down while the others serve.
        self.is_well = True
        self.losses = 0

    async def turn(self) -> bool:
        """Wait for one's turn. False when there is nothing to connect for any more."""
        loop = asyncio.get_running_loop()
        while not self.closing:
            left = self._next - loop.time()
            if self._failed == 0 or left <= 0:
                # Whoever comes next waits, whatever becomes of this attempt.
                self._next = loop.time() + self._delay()
                return True
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        return False

    def _delay(self) -> float:
        return (_RETRY_S if self._failed > 1 else _FIRST_RETRY_S) * (0.5 + random.random())  # noqa: S311  (jitter, not a secret)

    def won(self) -> None:
        self._failed = 0
        self.is_well = True
        self._changed.set()

    def dropped(self) -> None:
        """A connection ended that was up. Agents that lose the server together shall not come back all at once."""
        if self.is_well:
            self.is_well = False
            self.losses += 1
        now = asyncio.get_running_loop().time()
        if self._failed == 0 and now - self._dropped_at > _SETTLED_S:
            self._dropped_at = now
            self.lost()

    def lost(self) -> None:
        self.is_well = False
        self._failed += 1
        self._next = asyncio.get_running_loop().time() + self._delay()

    def close(self) -> None:
        self.closing = True
        self._changed.set()


def _settings(options: Options, name: str, request_timeout_s: float) -> dict[str, Any]:
    protocol = f"{'SASL_' if options.user else ''}{'SSL' if options.secure else 'PLAINTEXT'}"
    settings: dict[str, Any] = {
        "bootstrap_servers": list(options.servers),
        "client_id": name,
        "request_timeout_ms": int(request_timeout_s * 1000),
        "metadata_max_age_ms": int(_METADATA_AGE_S * 1000),
        "retry_backoff_ms": 200,
        "security_protocol": protocol,
        "ssl_context": options.tls(),
    }
    if options.user:
        settings |= {
            "sasl_mechanism": options.mechanism,
            "sasl_plain_username": options.user,
            "sasl_plain_password": options.password,
        }
    return settings


async def probe(options: Options, timeout_s: float) -> None:
    """One connection to one server, with its greeting. aiokafka's own start hides why it could not connect. Raises BrokerUnavailable,
    or ConfigurationError when the server refuses us for good."""
    reason: Exception | None = None
    settings = _settings(options, "saga-choreo", timeout_s)
    del settings["bootstrap_servers"], settings["metadata_max_age_ms"], settings["retry_backoff_ms"]
    for server in random.sample(options.servers, len(options.servers)):
        host, _, port = server.rpartition(":")
        try:
            async with asyncio.timeout(timeout_s):
                connection: Any = await create_conn(host.strip("[]"), int(port), **settings)
        except _REFUSED as exc:
            raise ConfigurationError(
                f"Kafka at {options.shown!r} refused the credentials; correct user, password or mechanism in the broker URL"
            ) from exc
        except ssl.SSLCertVerificationError as exc:
            raise ConfigurationError(
                f"Kafka at {options.shown!r} shows a certificate that is not trusted ({exc.verify_message}); name the authority's "
                "certificate in the option 'ca_file' of the broker URL, and the host as the certificate has it"
            ) from exc
        except (OSError, TimeoutError, KafkaError) as exc:
            reason = exc
        else:
            connection.close()
            return
    hint = "" if options.secure else "; if it speaks TLS, write kafka+ssl://"
    raise BrokerUnavailable(
        f"Kafka at {options.shown!r} cannot be reached ({reason or 'no answer'}){hint}; start it or correct the broker URL"
    ) from reason


def _tame(client: Any, pace: Pace, on_metadata: Callable[[Any], None] | None = None) -> None:
    """Connections at our pace, metadata requests with a pause between them, and a look at what each of them brought."""
    connect, update, bootstrap = client._get_conn, client._metadata_update, client.bootstrap
    looked = 0.0
    client.saga_dead = False

    async def get_conn(node_id: Any, **how: Any) -> Any:
        found = client._conns.get((node_id, how.get("group", 0)))
        if found is not None and found.connected():
            pace.is_well = True
            return found
        if found is not None:
            pace.dropped()
        if client.saga_dead or not await pace.turn() or client.saga_dead:
            return None
        made = await connect(node_id, **how)
        if made is None:
            pace.lost()
        else:
            pace.won()
        return made

    async def metadata_update(cluster: Any, topics: Any) -> Any:
        nonlocal looked
        loop = asyncio.get_running_loop()
        if client.saga_dead:
            await asyncio.sleep(_METADATA_PAUSE_S)
            return False
        if (left := looked + _METADATA_PAUSE_S - loop.time()) > 0:
            await asyncio.sleep(left)
        answer = await update(cluster, topics)
        looked = loop.time()
        if answer and on_metadata is not None:
            on_metadata(cluster)
        return answer

    async def paced_bootstrap() -> None:
        if not await pace.turn():
            raise KafkaError("the broker is being closed")
        try:
            await bootstrap()
        except BaseException:
            pace.lost()
            raise
        pace.won()

    client._get_conn, client._metadata_update, client.bootstrap = get_conn, metadata_update, paced_bootstrap


def make_producer(
    options: Options, name: str, pace: Pace, topics: Iterable[str], on_metadata: Callable[[Any], None] | None = None
) -> Any:
    producer: Any = AIOKafkaProducer(
        **_settings(options, name, options.publish_timeout),
        acks="all",
        enable_idempotence=True,
        max_batch_size=options.batch_bytes,
    )
    # Without a list it would ask for all topics of the cluster.
    producer.client._topics = set(topics)
    _tame(producer.client, pace, on_metadata)
    return producer


def make_consumer(
    options: Options, name: str, pace: Pace, *, group: str | None = None, on_metadata: Callable[[Any], None] | None = None
) -> Any:
    consumer: Any = AIOKafkaConsumer(
        **_settings(options, name, options.request_timeout),
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=int(options.session * 1000),
        heartbeat_interval_ms=int(options.heartbeat * 1000),
        rebalance_timeout_ms=int(_REBALANCE_S * 1000),
        # An agent that stalls is noticed by the receiver, which knows what is overdue.
        max_poll_interval_ms=24 * 3600 * 1000,
        fetch_max_bytes=8 * 1024 * 1024,
        fetch_max_wait_ms=500,
    )
    _tame(consumer._client, pace, on_metadata)
    return consumer


async def start_consumer(consumer: Any) -> None:
    """What it fetches with is made when it starts, from settings that its constructor does not take."""
    await consumer.start()
    consumer._fetcher._prefetch_backoff = _TAKEN_S


def make_admin(options: Options, name: str, pace: Pace | None = None) -> Any:
    admin: Any = AIOKafkaAdminClient(**_settings(options, name, options.request_timeout))
    if pace is not None:
        _tame(admin._client, pace)
    return admin


async def committed_offsets(consumer: Any, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, str]]:
    """What the group has committed, with the text beside it; -1 for nothing. aiokafka's own `committed` leaves out the text, and
    waits for ever in a rebalance when the coordinator is lost meanwhile: nobody else looks for it then."""
    wanted = list(partitions)
    found = await consumer._coordinator.fetch_committed_offsets(wanted)
    return {tp: (found[tp].offset, found[tp].metadata) if tp in found else (-1, "") for tp in wanted}


def member_of(consumer: Any) -> str:
    """What the server calls it; empty while it is in no group."""
    return str(consumer._coordinator.member_id)


def partitions_of(consumer: Any, topics: Iterable[str]) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic) or ()]


async def working_members(consumer: Any) -> set[str]:
    """Members of the consumer's group that have partitions; nobody while there is a rebalance."""
    coordinator = consumer._coordinator
    answer = await coordinator._send_req(DescribeGroupsRequest([coordinator.group_id]))
    _error, _group, state, _type, _protocol, members = answer.groups[0][:6]
    if state != "Stable":
        return set()
    return {member[0] for member in members if MemberAssignment.decode(member[4]).assignment}


async def put_out(consumer: Any, member: str) -> None:
    """Of the consumer's own group. A member that is gone already is no error."""
    coordinator = consumer._coordinator
    await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, member))


def fail_batches(producer: Any, error: Exception) -> None:
    """Answer all that is queued or in flight: its caller decides whether to publish it again."""
    accumulator = producer._message_accumulator
    batches = [*accumulator._pending_batches, *(batch for queue in accumulator._batches.values() for batch in queue)]
    accumulator.fail_all(error)
    for batch in batches:
        _drop_error(batch._drain_waiter)


def has_batch_waiting(producer: Any, partition: TopicPartition) -> bool:
    """A batch of this partition has not been sent yet: `send_batch` would wait for that."""
    return bool(producer._message_accumulator._batches.get(partition))


async def discard(client: Any, *, politely: bool = True) -> None:
    """Stop a producer or a consumer in bounded time, whatever state the server is in."""
    inner: Any = client.client if hasattr(client, "client") else client._client
    stopping = asyncio.ensure_future(client.stop())
    stopping.add_done_callback(_drop_error)
    try:
        if politely:
            await asyncio.wait((stopping,), timeout=_STOP_S)
        if not stopping.done():
            _cut(client, inner)
            await asyncio.wait((stopping,), timeout=_STOP_S)
    finally:
        if not stopping.done():
            for task in (*_tasks(client, inner), stopping):
                task.cancel()
            await asyncio.wait((stopping,), timeout=_STOP_S)


def _cut(client: Any, inner: Any) -> None:
    inner.saga_dead = True
    for connection in list(inner._conns.values()):
        writer = getattr(connection, "_writer", None)
        if writer is not None:
            writer.transport.abort()
        connection.close()
    sender = getattr(client, "_sender", None)
    if sender is not None:
        fail_batches(client, KafkaError("the producer was discarded"))
        if sender.sender_task is not None:
            sender.sender_task.cancel()


def _tasks(client: Any, inner: Any) -> list[Any]:
    fetcher, coordinator = getattr(client, "_fetcher", None), getattr(client, "_coordinator", None)
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task")
    found = [inner._sync_task, getattr(fetcher, "_fetch_task", None), *(getattr(coordinator, name, None) for name in names)]
    return [task for task in found if task is not None and not task.done()]


def _drop_error(future: asyncio.Future[Any]) -> None:
    """So that asyncio does not report it as never looked at."""
    if future.done() and not future.cancelled():
        future.exception()
