"""The database fails over to a replica that has missed the last commits. No protocol mends that: the agents have to notice."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import asyncpg

from saga_choreo.testing.postgres_server import PostgresServer
from tests.scenarios.chaos.place import Place, until

__all__ = ["lagging_failover"]

_ENDED_S = 120.0
_MISSED_S = 3.0
_NOTICED_S = 30.0


async def lagging_failover(place: Place, sagas: int) -> int:
    """All services are on one database. Its replica hears nothing any more, then takes over: every agent stops by itself and says so,
    and none works until an operator accepts the new history. Sagas that had ended before stay as they are, and those that come after
    end. What was under way meanwhile is for people, and is not judged."""
    primary = place.database
    assert primary is not None
    replica = _replica_of(primary, place)
    await place.start(sagas)
    before = await place.verdict(_ENDED_S)
    assert not before.lost, f"{before.lost} sagas had not ended before the failover: {before.violations[:20]}"
    await _catch_up(primary, replica)
    ended = set(place.started)
    await _execute(replica, "alter system set primary_conninfo = ''", "select pg_reload_conf()")
    await place.start(sagas)
    await asyncio.sleep(_MISSED_S)
    primary.kill()
    replica.kill()
    checkpointer = await _take_over(primary, replica, place)
    for service in place.stores:
        await until(partial(_has_stopped, place, service), _NOTICED_S, f"agent of {service!r} that noticed the failover")
    place.leave_to_people(set(place.started) - ended)
    effects = await place.ledgers()
    await asyncio.sleep(3)
    assert await place.ledgers() == effects, "an agent worked before anybody had accepted the new history"
    for service, url in place.plain_stores.items():
        await _accept(service, url)
    os.kill(checkpointer, signal.SIGCONT)
    await _execute(primary, "checkpoint")  # from now on that is the heir's address
    await place.start(sagas)
    return 1


def _replica_of(primary: PostgresServer, place: Place) -> PostgresServer:
    """Streaming, from a copy that was made while the primary was down for a moment."""
    place.folder.chmod(0o755)  # PostgreSQL runs as another account
    replica = PostgresServer(place.folder / "replica")
    primary.stop()
    shutil.copytree(primary.cluster, replica.cluster, copy_function=shutil.copy2)
    primary.start()
    (replica.cluster / "standby.signal").touch()
    with (replica.cluster / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = 'host=127.0.0.1 port={primary.port} user=postgres'\n")
    owner = primary.cluster.stat()
    for one in (replica.cluster, *replica.cluster.rglob("*")):
        shutil.chown(one, owner.st_uid, owner.st_gid)
    place.closing.callback(replica.kill)
    return replica.start()


async def _catch_up(primary: PostgresServer, replica: PostgresServer) -> None:
    (written,) = await _execute(primary, "select pg_current_wal_lsn()::text")

    async def has_all() -> bool:
        (behind,) = await _execute(replica, f"select pg_last_wal_replay_lsn() < '{written}'")
        return behind is False

    await until(has_all, 20, "replica that has everything")


async def _take_over(primary: PostgresServer, replica: PostgresServer, place: Place) -> int:
    """Under the primary's address, as a load balancer or a floating address would have it. The first checkpoint after that may take
    minutes, and nobody may have to wait for it: whoever makes it stands still; the answer is its pid."""
    heir = PostgresServer(replica.data_dir, port=primary.port)
    place.closing.callback(heir.kill)
    heir.start()
    (checkpointer,) = await _execute(heir, "select pid from pg_stat_activity where backend_type = 'checkpointer'")
    assert isinstance(checkpointer, int)
    os.kill(checkpointer, signal.SIGSTOP)
    assert await _execute(heir, "select pg_promote()") == [True]
    return checkpointer


async def _execute(server: PostgresServer, *statements: str) -> list[object]:
    connection = await asyncpg.connect(server.url)
    try:
        return [await connection.fetchval(statement) for statement in statements]
    finally:
        await connection.close()


async def _has_stopped(place: Place, service: str) -> bool:
    log = (place.folder / f"{service}.log").read_text(errors="replace")
    return "went back in time" in log and f"accept-epoch --service {service}" in log


async def _accept(service: str, url: str) -> None:
    program = str(Path(sys.executable).parent / "saga-choreo")
    options = ("--store", url, "--service", service, "--reason", "the replica took over", "--yes")
    process = await asyncio.create_subprocess_exec(program, "store", "accept-epoch", *options)
    assert await process.wait() == 0, f"the new history of {service!r} could not be accepted"
