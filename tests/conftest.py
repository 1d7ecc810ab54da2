"""Servers that tests of several folders share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from saga_choreo.errors import ConfigurationError
from saga_choreo.testing.postgres_server import PostgresServer
from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from saga_choreo.testing.redis_server import RedisServer

_numbers = itertools.count()

# A busy machine is no fault of the code under test.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


def missing(server: str, reason: str) -> None:
    """A test that cannot have its server says so; where servers are required, as in the gate, that is a failure."""
    if server in os.environ.get("SAGA_REQUIRE_SERVERS", "").split(","):
        pytest.fail(f"{server} is required (SAGA_REQUIRE_SERVERS) and cannot be had: {reason}")
    pytest.skip(f"no {server}: {reason}")


def require_postgres() -> None:
    try:
        PostgresServer.programs()
    except ConfigurationError as error:
        missing("postgres", str(error))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """One server for all tests that do not hurt it: the one that SAGA_TEST_POSTGRES_URL names, or one of our own."""
    given = os.environ.get("SAGA_TEST_POSTGRES_URL", "")
    if given:
        yield given
        return
    require_postgres()
    # Not in pytest's folder: root's is closed to the account that PostgreSQL runs as.
    with TemporaryDirectory(prefix="saga-postgres-") as folder, PostgresServer(folder) as server:
        yield server.url


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server this test may stop and kill; not started yet."""
    require_postgres()
    with TemporaryDirectory(prefix="saga-postgres-") as folder:
        server = PostgresServer(folder)
        yield server
        server.stop()


@pytest.fixture
def postgres_schema(postgres_url: str) -> Iterator[Callable[[], str]]:
    """Makes empty schemas on that server, and gives the store's URL of each."""
    made: list[str] = []

    def make() -> str:
        name = f"saga_test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[arg-type]  # a name of ours
        made.append(name)
        return f"{postgres_url}{'&' if '?' in postgres_url else '?'}search_path={name}"

    yield make
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP SCHEMA {name} CASCADE")  # type: ignore[arg-type]  # a name of ours


def require_rabbitmq() -> None:
    try:
        RabbitMqServer.programs()
    except ConfigurationError as error:
        missing("rabbitmq", str(error))


@pytest.fixture(scope="session")
def rabbitmq_url(request: pytest.FixtureRequest) -> str:
    """One server for all tests that do not hurt it: the one that SAGA_TEST_RABBITMQ_URL names, or one of our own."""
    given = os.environ.get("SAGA_TEST_RABBITMQ_URL", "")
    if given:
        return given
    server: RabbitMqServer = request.getfixturevalue("shared_rabbitmq")
    return server.url


@pytest.fixture(scope="session")
def shared_rabbitmq() -> Iterator[RabbitMqServer]:
    """A server of ours for the whole session. Whoever stops or kills it starts it again: that takes seconds, so do it seldom."""
    require_rabbitmq()
    with TemporaryDirectory(prefix="saga-rabbitmq-") as folder, RabbitMqServer(folder) as server:
        yield server


def require_redis() -> None:
    try:
        RedisServer.binary()
    except ConfigurationError as error:
        missing("redis", str(error))


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """One server for all tests that do not hurt it: the one that SAGA_TEST_REDIS_URL names, or one of our own."""
    given = os.environ.get("SAGA_TEST_REDIS_URL", "")
    if given:
        yield given
        return
    require_redis()
    with TemporaryDirectory(prefix="saga-redis-") as folder, RedisServer(folder) as server:
        yield server.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server this test may stop and kill; not started yet."""
    require_redis()
    with TemporaryDirectory(prefix="saga-redis-") as folder:
        server = RedisServer(folder)
        yield server
        server.stop()


@pytest.fixture
def redis_prefix(redis_url: str) -> Callable[[], str]:
    """Store URLs on that server, each with a prefix of its own: nothing else is ever under it."""

    def make() -> str:
        return f"{redis_url}{'&' if '?' in redis_url else '?'}prefix=saga-test-{uuid4().hex}"

    return make
