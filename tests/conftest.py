"""Servers that tests of several folders share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings

from saga_choreo.core import graph
from saga_choreo.core.emissions import emissions
from saga_choreo.core.routing import facts_for
from saga_choreo.errors import ConfigurationError
from saga_choreo.testing.kafka_server import KafkaServer
from saga_choreo.testing.postgres_server import PostgresServer
from saga_choreo.testing.rabbitmq_server import RabbitMqServer
from saga_choreo.testing.redis_server import RedisServer
from saga_choreo.testing.services import SERVICES, find, reason_missing

_numbers = itertools.count()

# A busy machine is no fault of the code under test.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Mutation testing runs these thousands of times: the same examples each time, and no search for a smaller one once one has failed.
settings.register_profile(
    "mutation",
    settings.get_profile("here"),
    derandomize=True,
    database=None,
    max_examples=40,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile("mutation" if "MUTANT_UNDER_TEST" in os.environ else "here")


# The groups that take longest begin first, so that no worker is left with one of them when the others are done: seconds on a machine of
# two cores that does other things as well. Wrong numbers cost time only; `PYTEST_ARGS=--durations=80` says where it goes.
_LONG_S = {
    "test_brokers-rabbitmq": 260,
    "test_brokers-kafka": 175,
    "test_brokers-nats": 140,
    "test_recovery": 125,
    "test_chaos-nats-postgres": 110,
    "test_brokers-rabbitmq-guarded": 100,
    "test_simulator": 100,
    "test_brokers-kafka-guarded": 90,
    "test_kafka": 75,
    "test_nats_cluster": 65,
    "test_rabbitmq_access": 60,
    "test_stores": 55,
    "test_demo": 45,
    "test_rabbitmq": 45,
    "test_chaos-rabbitmq-sqlite": 45,
    "test_chaos-kafka-sqlite": 40,
    "test_chaos-nats-sqlite": 35,
    "test_rabbitmq_server": 30,
    "test_parked": 30,
    "test_recovery-rabbitmq": 30,
    "test_own_agents": 25,
    "test_assembled": 25,
    "test_guards": 25,
    "test_brokers-nats-guarded": 25,
    "test_commands": 25,
    "test_replays_and_deaths": 25,
    "test_benchmarks": 25,
    "test_recovery-kafka": 20,
    "test_replays": 20,
    "test_pages": 20,
}


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: whoever talks to servers mostly waits."""
    return (os.cpu_count() or 1) + 1


def _group(item: pytest.Item) -> str:
    params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    of = [one for name in ("adapter", "broker", "store") if isinstance(one := params.get(name), str)]
    if "guarded" in getattr(params.get("behaviour"), "needs", ()):
        of.append("guarded")
    return "-".join((item.path.stem, *of))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests run on one worker, since they share a server; those of several adapters, brokers and stores on one each, and so do
    the behaviours that have a server of their own, with TLS and a password."""
    groups = {item.nodeid: _group(item) for item in items}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item.nodeid]))
    items.sort(key=lambda item: -_LONG_S.get(groups[item.nodeid], 0))


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Faults are planted in processes that have run tests before, without any: what a cache has kept since would hide them. And each
    fault is looked for by the tests that call the function it is in, not only by the first to ask for what is remembered then."""
    emissions.cache_clear()
    facts_for.cache_clear()
    graph._plan_of.cache_clear()


# What processes of these tests do is counted elsewhere, or measured: they run as fast as they can, untraced.
_UNTRACED = {"simulation", "benchmarks", "test_recovery"}


@pytest.fixture(autouse=True)
def untraced_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if _UNTRACED & {request.path.stem, request.path.parent.name}:
        for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
            monkeypatch.delenv(name)


def missing(server: str, reason: str) -> None:
    """A test that cannot have its server says so; where servers are required, as in the gate, that is a failure."""
    if server in os.environ.get("SAGA_REQUIRE_SERVERS", "").split(","):
        pytest.fail(f"{server} is required (SAGA_REQUIRE_SERVERS) and cannot be had: {reason}")
    pytest.skip(f"no {server}: {reason}")


def require(name: str) -> None:
    if reason := reason_missing(name):
        missing(name, reason)


def _shared(name: str) -> Iterator[str]:
    require(name)
    with find(name) as found:
        yield found.url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """One server for all tests that do not hurt it: see `saga_choreo.testing.services` for where it comes from."""
    yield from _shared("postgres")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """As `postgres_url`."""
    yield from _shared("redis")


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server this test may stop and kill; not started yet."""
    require_local("postgres")
    with TemporaryDirectory(prefix="saga-postgres-") as folder:
        server = PostgresServer(folder)
        yield server
        server.stop()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server this test may stop and kill; not started yet."""
    require_local("redis")
    with TemporaryDirectory(prefix="saga-redis-") as folder:
        server = RedisServer(folder)
        yield server
        server.stop()


def require_local(name: str) -> None:
    """A test that stops and kills its server needs one of its own, whatever else there is."""
    try:
        SERVICES[name].check()
    except ConfigurationError as error:
        missing(name, str(error))


@pytest.fixture(scope="session")
def rabbitmq_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """For tests that do not hurt it: what SAGA_TEST_RABBITMQ_URL names, a container, or the session's own server."""
    yield from _given_or_own("rabbitmq", request)


@pytest.fixture(scope="session")
def kafka_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """As `rabbitmq_url`."""
    yield from _given_or_own("kafka", request)


def _given_or_own(name: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that takes seconds to start is not started twice, for tests that hurt it and for those that do not."""
    if os.environ.get(SERVICES[name].variable, ""):
        yield from _shared(name)
    else:
        yield request.getfixturevalue(f"shared_{name}").url


@pytest.fixture(scope="session")
def shared_rabbitmq() -> Iterator[RabbitMqServer]:
    """A server of ours for the whole session. Whoever stops or kills it starts it again: that takes seconds, so do it seldom."""
    require_local("rabbitmq")
    with TemporaryDirectory(prefix="saga-rabbitmq-") as folder, RabbitMqServer(folder) as server:
        yield server


@pytest.fixture(scope="session")
def shared_kafka() -> Iterator[KafkaServer]:
    """As `shared_rabbitmq`."""
    require_local("kafka")
    with TemporaryDirectory(prefix="saga-kafka-") as folder, KafkaServer(folder) as server:
        yield server


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


@pytest.fixture
def redis_prefix(redis_url: str) -> Callable[[], str]:
    """Store URLs on that server, each with a prefix of its own: nothing else is ever under it."""

    def make() -> str:
        return f"{redis_url}{'&' if '?' in redis_url else '?'}prefix=saga-test-{uuid4().hex}"

    return make
