"""What is Redis' own in its store: opening, durability, ambiguity of commits, what a kill leaves. On a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from saga_choreo.errors import ConfigurationError, DurabilityRefused, SagaError, StoreConflict, StoreUnavailable, StoreVersionError
from saga_choreo.ports import BusinessKey, Outcome, SagaFilter, State
from saga_choreo.testing.proxy import FaultProxy
from saga_choreo.testing.redis_server import RedisServer
from saga_choreo.testing.servers import free_port
from saga_choreo.testing.stores import make_record, saga_id_of
from saga_choreo_redis.packing import pack_record, record_of
from saga_choreo_redis.store import RedisStore
from saga_choreo_redis.upkeep import SCHEMA_VERSION
from tests.unit.stores.redis_support import commands, opened, run, until

Prefix = Callable[[], str]


async def save(store: RedisStore, *numbers: int) -> None:
    async with store.transaction() as transaction:
        await transaction.save([make_record(number) for number in numbers])
        await transaction.commit()


async def _at_least(found: set[int], wanted: int) -> bool:
    return len(found) >= wanted


def test_stores_that_open_at_once_on_an_empty_server_agree_on_one_name(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        url = redis_prefix()
        stores = [RedisStore(url) for _ in range(6)]
        await asyncio.gather(*(store.open() for store in stores))
        assert {len(store.incarnation) for store in stores} == {32}
        assert len({store.incarnation for store in stores}) == 1
        await asyncio.gather(*(store.close() for store in stores))

    run(scenario())


def test_two_prefixes_hold_two_stores(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        async with opened(redis_prefix()) as first, opened(redis_prefix()) as second:
            await save(first, 1)
            assert first.incarnation != second.incarnation
            assert list(await second.sagas(SagaFilter())) == []

    run(scenario())


def test_a_newer_layout_that_only_adds_lets_this_release_go_on(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        url = redis_prefix()
        async with opened(url) as store:
            await save(store, 1)
        async with commands(url) as client:
            meta = f"{{{url.rpartition('prefix=')[2]}}}:meta"
            await client.hset(meta, "schema_version", SCHEMA_VERSION + 1)
            async with opened(url) as store:
                assert len(await store.sagas(SagaFilter())) == 1
            assert (await RedisStore(url).inspect()).works
            await client.hset(meta, "oldest_version", SCHEMA_VERSION + 1)
            with pytest.raises(StoreVersionError, match="upgrade saga_choreo"):
                await RedisStore(url).open()
            assert not (await RedisStore(url).inspect()).works

    run(scenario())


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("appendonly", "no", r"'appendonly': 'no'"),
        ("appendfsync", "everysec", r"'appendfsync': 'everysec'"),
        ("no-appendfsync-on-rewrite", "yes", r"'no-appendfsync-on-rewrite': 'yes'"),
    ],
)
def test_a_server_that_may_forget_commits_is_refused_unless_asked_for(
    setting: str, value: str, said: str, own_redis: RedisServer
) -> None:
    unsafe = RedisServer(own_redis.data_dir, port=own_redis.port, settings={setting: value})
    with unsafe:

        async def scenario() -> None:
            with pytest.raises(DurabilityRefused, match=f"{said}.*durability=relaxed"):
                await RedisStore(unsafe.url).open()
            async with opened(unsafe.url + "?durability=relaxed") as store:
                assert not store.features.durable

        run(scenario())


def test_a_server_that_throws_keys_away_is_refused_however_relaxed(own_redis: RedisServer) -> None:
    unsafe = RedisServer(own_redis.data_dir, port=own_redis.port, settings={"maxmemory-policy": "allkeys-lru"})
    with unsafe:

        async def scenario() -> None:
            with pytest.raises(DurabilityRefused, match=r"may throw keys away .*'allkeys-lru'.*noeviction"):
                await RedisStore(unsafe.url + "?durability=relaxed").open()

        run(scenario())


def test_a_server_that_does_not_tell_its_settings_is_not_taken_for_safe(own_redis: RedisServer) -> None:
    (own_redis.data_dir / "users.acl").write_text("user default on nopass ~* &* +@all -config\n")
    closed = RedisServer(own_redis.data_dir, port=own_redis.port, settings={"aclfile": str(own_redis.data_dir / "users.acl")})
    with closed:

        async def scenario() -> None:
            with pytest.raises(DurabilityRefused, match="'appendonly': 'not told'"):
                await RedisStore(closed.url).open()
            async with opened(closed.url + "?durability=relaxed") as store:
                await save(store, 1)

        run(scenario())


def test_a_cluster_and_a_replica_are_refused(own_redis: RedisServer) -> None:
    cluster = RedisServer(own_redis.data_dir / "cluster", settings={"cluster-enabled": "yes", "cluster-port": str(free_port())})
    replica = RedisServer(own_redis.data_dir / "replica", settings={"replicaof": f"127.0.0.1 {own_redis.port}"})
    with cluster, own_redis, replica:

        async def scenario() -> None:
            with pytest.raises(ConfigurationError, match="runs as a cluster"):
                await RedisStore(cluster.url).open()
            with pytest.raises(StoreUnavailable, match="is a replica and takes no writes"):
                await RedisStore(replica.url).open()

        run(scenario())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "is not a Redis URL"),
        ("redis://h?durability=some", "asks for durability 'some'"),
        ("redis://h?prefix=a{b}", "has the prefix 'a{b}'"),
        ("redis://h?pool_max=1", "has pool_max='1'"),
        ("redis://h?colour=red", r"unknown options \['colour'\]"),
    ],
)
def test_a_wrong_url_is_refused_with_advice(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        RedisStore(url)


def test_a_server_that_is_not_there_is_unavailable_and_no_message_shows_the_password() -> None:
    async def scenario() -> None:
        url = "redis://me:geheim@127.0.0.1:1/0"
        with pytest.raises(StoreUnavailable) as info:
            await RedisStore(url).open()
        assert "geheim" not in str(info.value) + repr(RedisStore(url))

    run(scenario())


def test_a_step_has_nothing_to_write_in_and_is_told_so(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        async with opened(redis_prefix()) as store, store.transaction() as transaction:
            with pytest.raises(ConfigurationError, match="external=True"):
                _ = transaction.user

    run(scenario())


def test_what_was_confirmed_survives_a_kill_of_the_server(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        confirmed: set[int] = set()

        async def write(first: int) -> None:
            for number in range(first, first + 1_000):
                await save(store, number)
                confirmed.add(number)

        for first in (1, 10_001, 20_001):
            own_redis.start()
            async with opened(own_redis.url) as store:
                writers = [asyncio.create_task(write(first + 2_000 * n)) for n in range(4)]
                await until(lambda wanted=100 * (first // 10_000 + 1): _at_least(confirmed, wanted))
                own_redis.kill()
                ended = await asyncio.gather(*writers, return_exceptions=True)
                assert all(isinstance(one, StoreUnavailable) for one in ended)
        own_redis.start()
        async with opened(own_redis.url) as store:
            assert len(confirmed) >= 300
            for number in confirmed:
                assert len(await store.records(saga_id_of(number))) == 1

    run(scenario())


def test_a_store_goes_on_with_a_server_that_was_restarted(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        own_redis.start()
        async with opened(own_redis.url) as store:
            await save(store, 1)
            own_redis.restart()
            await save(store, 2)  # also: the server has forgotten the scripts
            assert [len(await store.records(saga_id_of(number))) for number in (1, 2)] == [1, 1]

    run(scenario())


def test_a_commit_whose_answer_is_lost_is_unknown_and_never_sent_again(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        own_redis.start()
        async with FaultProxy(own_redis.port) as proxy, opened(f"redis://127.0.0.1:{proxy.port}/0") as store:
            await save(store, 1)
            async with store.transaction() as transaction:
                await transaction.save([make_record(2)])
                await transaction.append(counters={("payment", "sent"): 1})
                with proxy.black_hole("down"):
                    commit = asyncio.create_task(transaction.commit())
                    async with commands(own_redis.url) as plain:
                        await until(lambda: plain.exists("{saga}:counter:payment"))
                    proxy.cut()
                    with pytest.raises(StoreUnavailable, match="unknown whether it happened"):
                        await commit
                with pytest.raises(SagaError):
                    await transaction.commit()
            assert dict(await store.counters()) == {"sent": 1}
            assert [len(await store.records(saga_id_of(number))) for number in (1, 2)] == [1, 1]

    run(scenario())


def test_a_cancelled_read_leaves_no_answer_for_the_next_one(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        own_redis.start()
        async with opened(own_redis.url + "?pool_max=2") as store:
            await save(store, 1, 2)
            own_redis.pause()
            reads = [asyncio.create_task(store.records(saga_id_of(1))) for _ in range(2)]
            await asyncio.sleep(0.1)
            for one in reads:
                one.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
            own_redis.resume()
            assert [r.saga_id for r in await store.records(saga_id_of(2))] == [saga_id_of(2)]
            assert dict(await store.counters()) == {}

    run(scenario())


def test_a_server_without_memory_writes_nothing_of_a_commit(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        own_redis.start()
        async with opened(own_redis.url) as store:
            await save(store, 1)
            async with commands(own_redis.url) as plain:
                await plain.config_set("maxmemory", "1mb")
                async with store.transaction() as transaction:
                    await transaction.save([make_record(2, inputs={0: b"x" * 65_536})])
                    await transaction.append(counters={("payment", "n"): 1})
                    with pytest.raises(StoreUnavailable, match=r"no memory left.*nothing was written"):
                        await transaction.commit()
                await plain.config_set("maxmemory", "0")
            assert dict(await store.counters()) == {}
            assert list(await store.records(saga_id_of(2))) == []

    run(scenario())


def test_a_commit_on_a_saga_that_another_changed_is_a_conflict_though_its_own_record_is_as_it_was(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        async with opened(redis_prefix()) as store:
            async with store.transaction() as transaction:
                await transaction.save([make_record(1), make_record(1, step=2)])
                await transaction.commit()
            async with store.transaction() as transaction:
                first, _ = await transaction.claim("payment", [saga_id_of(1)])
                async with store.transaction() as other:
                    await other.save([make_record(1, step=2, version=2)])
                    await other.commit()
                await transaction.save([replace(first, version=2)])
                with pytest.raises(StoreConflict, match="was changed in service 'payment'"):
                    await transaction.commit()

    run(scenario())


def test_nothing_is_left_on_the_server_of_what_is_forgotten(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        url = redis_prefix()
        async with opened(url) as store, commands(url) as plain:
            pattern = f"{{{url.rpartition('=')[2]}}}:*"
            await save(store, 1)
            empty = {key async for key in plain.scan_iter(match=pattern)}
            key = BusinessKey(service="payment", choreography="c", key="k", saga_id=saga_id_of(1), digest="")
            async with store.transaction() as transaction:
                await transaction.register(key)
                await transaction.save(
                    [make_record(1, version=2, outcome=Outcome.COMPLETED, state=State.DONE, announced=2, due_ms=None)]
                )
                await transaction.commit()
            assert await store.forget("payment", saga_id_of(50), 1) == 1
            assert await store.forget("payment", saga_id_of(50), 10) == 1, "the key, once no record is left"
            left = {key async for key in plain.scan_iter(match=pattern)}
            names = {one.decode().partition("}:")[2].partition(":")[0] for one in left}
            assert names == {"meta", "services", "choreographies"}
            assert any(b"saga:payment" in one for one in empty)

    run(scenario())


def test_a_record_of_an_unknown_format_or_a_damaged_one_is_not_guessed_at() -> None:
    stored = pack_record(make_record(1, inputs={0: b"{}"}))
    assert record_of(stored, 0) == make_record(1, inputs={0: b"{}"})
    for wrong in (stored[:-1], stored + b"x", b"[2," + stored[3:], b"nonsense", b""):
        with pytest.raises(ValueError, match="a stored value"):
            record_of(wrong, 0)


def test_a_cancellation_is_never_covered_up_by_the_client(redis_prefix: Prefix) -> None:
    async def scenario() -> None:
        async with opened(redis_prefix() + "&pool_max=2") as store:

            async def look_for_ever() -> None:
                while True:
                    with contextlib.suppress(SagaError):
                        await store.advance("payment")

            for number in range(300):
                tasks = [asyncio.create_task(look_for_ever()) for _ in range(4)]
                await asyncio.sleep(0.0003 * (number % 17))
                for one in tasks:
                    one.cancel()
                _, left = await asyncio.wait(tasks, timeout=5)
                assert not left, "a cancelled task went on"

    run(scenario())
