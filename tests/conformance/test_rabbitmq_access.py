"""Who may connect to RabbitMQ, and how: accounts, permissions, certificates, passwords that change. Against the real server."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Notice
from saga_choreo.testing.behaviours import bodies, collect, event, publish, topology
from saga_choreo.testing.broker_publishing import first_notices
from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from saga_choreo.testing.servers import free_port
from saga_choreo_rabbitmq.broker import RabbitMqBroker
from tests.conformance.certificates import Certificates
from tests.conformance.rabbitmq_tools import Place, disconnect
from tests.conftest import require_local


def test_a_missing_virtual_host_and_missing_permissions_are_matters_of_configuration(place: Place) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match=r"has no virtual host 'nowhere'; create it"):
            await RabbitMqBroker(f"amqp://127.0.0.1:{place.server.port}/nowhere").open(topology())
        place.server.ctl("add_user", "poor", "poor-s3cret")
        place.server.ctl("set_permissions", "poor", "^nothing$", "^nothing$", "^nothing$")
        with pytest.raises(ConfigurationError, match=r"does not permit this.*refused") as refusal:
            await RabbitMqBroker(f"amqp://poor:poor-s3cret@127.0.0.1:{place.server.port}").open(topology())
        assert "s3cret" not in str(refusal.value)

    asyncio.run(scenario())


def test_an_account_needs_no_more_than_the_documented_permissions(place: Place) -> None:
    async def scenario() -> None:
        prefix = place.prefix
        place.server.ctl("add_user", "modest", "modest-s3cret")
        place.server.ctl(
            "set_permissions", "modest", rf"^{prefix}(\..*)?$", rf"^({prefix}(\..*)?|amq\.default)$", rf"^{prefix}(\..*)?$"
        )
        url = f"amqp://modest:modest-s3cret@127.0.0.1:{place.server.port}?settle=0&publish_timeout=3"
        broker = RabbitMqBroker(url, prefix=prefix)
        await broker.open(topology())
        await publish(broker, event(b"1"))
        await broker.release(await collect(broker, 1, ack=False), 0.1)
        assert bodies(await collect(broker, 1)) == [b"1"]
        await broker.notify(Notice("a", b"1"))
        assert await first_notices(broker, "a") == {"a": b"1"}
        await broker.close()

    asyncio.run(scenario())


def test_closed_connections_are_told_once_and_come_back(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        broker = place.broker()
        await broker.open(topology())
        await disconnect(place.server)
        await publish(broker, event(b"1"))
        assert bodies(await collect(broker, 1)) == [b"1"]
        await broker.close()

    asyncio.run(scenario())
    told = [record.getMessage() for record in caplog.records if record.name == "saga_choreo.rabbitmq"]
    assert sum("lost (" in message for message in told) == sum("is back" in message for message in told) == 2


def test_a_password_file_is_read_again_when_the_password_was_changed(place: Place, tmp_path: Path) -> None:
    async def scenario() -> None:
        file = tmp_path / "password"
        file.write_text("one-s3cret")
        place.server.ctl("add_user", "filed", "one-s3cret")
        place.server.ctl("set_permissions", "filed", ".*", ".*", ".*")
        url = f"amqp://filed@127.0.0.1:{place.server.port}?settle=0&publish_timeout=3&password_file={file}"
        broker = RabbitMqBroker(url, prefix=place.prefix)
        await broker.open(topology())
        place.server.ctl("change_password", "filed", "two-s3cret")
        file.write_text("two-s3cret")
        await disconnect(place.server)
        await publish(broker, event(b"1"))
        assert bodies(await collect(broker, 1)) == [b"1"]
        await broker.close()

    asyncio.run(scenario())


def test_a_client_certificate_is_shown_and_may_be_the_account(tmp_path: Path) -> None:
    require_local("rabbitmq")

    async def scenario(server: RabbitMqServer, with_key: str) -> None:
        broker = RabbitMqBroker(f"amqps://localhost:{server.tls_port}?auth=external&{with_key}")
        await broker.open(topology())
        await publish(broker, event(b"1"))
        assert bodies(await collect(broker, 1)) == [b"1"]
        await broker.close()

    certificates = Certificates(tmp_path)
    key, certificate = certificates.of("good")  # for CN=localhost
    settings = (
        f"ssl_options.cacertfile = {certificates.issuer}\nssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n"
        "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
        "auth_mechanisms.1 = EXTERNAL\nauth_mechanisms.2 = PLAIN\nssl_cert_login_from = common_name\n"
    )
    plugins = ["rabbitmq_auth_mechanism_ssl"]
    with (
        TemporaryDirectory(prefix="saga-rabbitmq-") as folder,
        RabbitMqServer(folder, settings=settings, plugins=plugins, tls_port=free_port()) as server,
    ):
        server.ctl("add_user", "localhost", "unused")
        server.ctl("set_permissions", "localhost", ".*", ".*", ".*")
        asyncio.run(scenario(server, f"ca_file={certificates.issuer}&cert_file={certificate}&key_file={key}"))


def test_logs_show_no_password(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match="refused the credentials"):
            await RabbitMqBroker(f"amqp://agent:wr0ng@127.0.0.1:{place.server.port}").open(topology())

    caplog.set_level(logging.DEBUG)
    asyncio.run(scenario())
    assert "wr0ng" not in caplog.text
