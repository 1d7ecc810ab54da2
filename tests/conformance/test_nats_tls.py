"""TLS to NATS: used when asked for, and never silently left out."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from saga_choreo.errors import BrokerUnavailable, ConfigurationError
from saga_choreo.ports import Topology
from saga_choreo.testing.behaviours import bodies, collect, event, publish
from saga_choreo.testing.servers import NatsServer
from saga_choreo_nats.broker import NatsBroker

PAYMENT = Topology(service="payment", agent="a1", events=("order.created",))


def _certificate(folder: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the program openssl is not installed")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([openssl, "req", *kind, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return key, certificate


def test_a_tls_url_talks_tls_and_checks_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = _certificate(tmp_path)

    async def trusted(server: NatsServer) -> None:
        broker = NatsBroker(f"tls://localhost:{server.port}")
        await broker.open(PAYMENT)
        await publish(broker, event(b"1"))
        server.restart()
        await publish(broker, event(b"2"))
        assert bodies(await collect(broker, 2)) == [b"1", b"2"]
        await broker.close()

    async def untrusted(server: NatsServer) -> None:
        with pytest.raises(BrokerUnavailable, match="certificate"):
            await NatsBroker(f"tls://localhost:{server.port}?open_timeout=4").open(PAYMENT)

    settings = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
    with NatsServer(tmp_path / "server", settings=settings) as server:
        asyncio.run(untrusted(server))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        asyncio.run(trusted(server))


def test_a_tls_url_sends_no_password_to_a_server_without_tls() -> None:
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","headers":true,"auth_required":true,"max_payload":1048576}\r\n')
        heard.extend(await reader.read())
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConfigurationError, match="offers no TLS") as refusal:
                await NatsBroker(f"tls://agent:s3cret@127.0.0.1:{port}").open(PAYMENT)
            assert "s3cret" not in str(refusal.value)
            await asyncio.sleep(0)

    asyncio.run(scenario())
    assert heard == b""
