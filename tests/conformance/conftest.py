"""`pytest --conformance`: after the suites, a JSON line per adapter, for people and for tables of what is supported."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import pytest

from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from saga_choreo.testing.services import SERVICES
from tests.conformance import kafka_tools
from tests.conformance.harnesses import fresh_prefix
from tests.conformance.rabbitmq_tools import Guarded, Place
from tests.conftest import require_local

_SUITES = {"test_a_broker_keeps_its_promises": "broker", "test_store": "store", "test_postgres": "store", "test_redis": "store"}
_counts: dict[tuple[str, str], Counter[str]] = {}


@pytest.fixture(scope="session")
def guarded_rabbitmq() -> Iterator[Guarded]:
    """A server with TLS and a password, for all behaviours that are about those."""
    require_local("rabbitmq")
    with TemporaryDirectory(prefix="saga-rabbitmq-") as folder:
        guarded = Guarded(Path(folder), lambda settings, tls_port: RabbitMqServer(folder, settings=settings, tls_port=tls_port))
        with guarded.server:
            yield guarded


@pytest.fixture(scope="session")
def guarded_kafka() -> Iterator[kafka_tools.Guarded]:
    """As `guarded_rabbitmq`."""
    require_local("kafka")
    with TemporaryDirectory(prefix="saga-kafka-") as folder:
        guarded = kafka_tools.Guarded(Path(folder))
        with guarded.server:
            yield guarded


@pytest.fixture
def place(shared_rabbitmq: RabbitMqServer) -> Place:
    return Place(shared_rabbitmq.start(), fresh_prefix())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance", action="store_true", help="a JSON line per adapter: passed, failed and skipped behaviours")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        suite = _SUITES.get(getattr(item, "originalname", ""))
        if suite is not None:
            item.user_properties.append(("conformance", f"{suite} {_adapter(item)}"))


def _adapter(item: pytest.Item) -> str:
    """The first parameter says it; a suite of one adapter says it in its name."""
    params = getattr(item, "callspec").params  # noqa: B009  (pytest.Function has it, its stubs do not)
    if "adapter" in params:
        return str(params["adapter"])
    if "harness" in params:
        return str(params["harness"].__name__).removeprefix("_")
    return str(getattr(item, "originalname", "")).removeprefix("test_")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, value in report.user_properties:
        # A test that passes counts once, when it was called; one that fails or is skipped at any stage.
        if name == "conformance" and (report.when == "call" or not report.passed):
            suite, _, adapter = str(value).partition(" ")
            _counts.setdefault((suite, adapter), Counter())[report.outcome] += 1


def _server(adapter: str) -> tuple[str, str]:
    if adapter.startswith("sqlite"):
        return "sqlite", apsw.sqlite_lib_version()
    service = SERVICES.get(adapter.partition("_")[0])
    if service is None:
        return "in this process", version("saga-choreo")
    return service.name, f"given by {service.variable}" if os.environ.get(service.variable) else service.version()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--conformance"):
        return
    terminalreporter.write_sep("=", "conformance")
    for (suite, adapter), counts in sorted(_counts.items()):
        server, number = _server(adapter)
        line = {"suite": suite, "adapter": adapter, "server": server, "version": number}
        terminalreporter.write_line(json.dumps({**line, **{word: counts[word] for word in ("passed", "failed", "skipped")}}))
