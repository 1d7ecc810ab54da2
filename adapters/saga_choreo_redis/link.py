"""The connections to the server, and its errors in the toolkit's words.

The client's own repetition of commands is switched off: a commit whose answer got lost may have happened, and is never sent again. Only
a read that met a broken connection is tried once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, MutableMapping, Sequence
from typing import Any, Protocol, TypeVar, cast

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from saga_choreo.errors import ConfigurationError, SagaError, StoreUnavailable
from saga_choreo_redis.place import Place
from saga_choreo_redis.scripts import Script

__all__ = ["Command", "Link"]

# A healthy server answers in milliseconds; one that rewrites its file or syncs to a slow disk may take a second or two.
_ANSWER_S = 10.0
_CONNECT_S = 5.0
_POOL_WAIT_S = 20.0

T = TypeVar("T")
Command = tuple[str | bytes | int, ...]


class _Pipeline(Protocol):
    def execute_command(self, *words: Any) -> Any: ...
    async def execute(self, raise_on_error: bool = True) -> list[Any]: ...
    async def reset(self) -> None: ...


class _Client(Protocol):
    """The part of the client this adapter uses, with types that both checkers understand."""

    response_callbacks: MutableMapping[str, Any]

    async def execute_command(self, *words: Any) -> Any: ...
    def pipeline(self, transaction: bool = True) -> _Pipeline: ...
    async def aclose(self, close_connection_pool: bool | None = None) -> None: ...


class Link:
    """A pool of connections to one server. Raises StoreUnavailable for all that may be over later, ConfigurationError for what
    will not."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client: _Client | None = None

    async def open(self) -> None:
        if self._client is not None:
            return
        try:
            make: Any = BlockingConnectionPool
            pool: Any = make.from_url(
                self._place.url,
                max_connections=self._place.pool_max,
                timeout=_POOL_WAIT_S,
                socket_timeout=_ANSWER_S,
                socket_connect_timeout=_CONNECT_S,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
            )
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"the store URL {self._place.shown!r} cannot be used: {error}; correct it") from error
        client = cast(_Client, Redis(connection_pool=pool))
        # What the server says, as it says it: the client's own conversions differ between its versions.
        client.response_callbacks.clear()
        self._client = client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose(close_connection_pool=True)

    async def read(self, *command: Any) -> Any:
        """One command that changes nothing."""
        return (await self.read_all([command]))[0]

    async def read_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Commands that change nothing, in one round trip; each by itself is of one moment, all together are not."""
        if not commands:
            return []
        for again in (True, False):
            try:
                return await self._pipelined(commands)
            except exceptions.ConnectionError as error:
                if not again or isinstance(error, (exceptions.BusyLoadingError, exceptions.AuthenticationError)):
                    raise self._translated(error, "reading") from error
            except (exceptions.RedisError, OSError, asyncio.IncompleteReadError) as error:
                raise self._translated(error, "reading") from error
        raise AssertionError("the second try returns or raises")

    async def _pipelined(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        if len(commands) == 1:
            return [await _uncovered(self._open_client().execute_command(*commands[0]))]
        pipeline = self._open_client().pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            return await _uncovered(pipeline.execute())
        finally:
            await pipeline.reset()

    async def write(self, *command: Any) -> Any:
        """One command that may be repeated by whoever asked for it, and is not repeated here."""
        try:
            return await _uncovered(self._open_client().execute_command(*command))
        except (exceptions.RedisError, OSError, asyncio.IncompleteReadError) as error:
            raise self._translated(error, "writing") from error

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> int:
        """Run a script. StoreUnavailable says whether it is known that nothing happened."""
        client = self._open_client()
        try:
            try:
                return int(await _uncovered(client.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)))
            except exceptions.NoScriptError:
                # A server that was restarted has forgotten it: nothing has run.
                return int(await _uncovered(client.execute_command("EVAL", script.text, len(keys), *keys, *arguments)))
        except (exceptions.RedisError, OSError, asyncio.IncompleteReadError) as error:
            raise self._translated(error, "committing") from error

    def _open_client(self) -> _Client:
        if self._client is None:
            raise StoreUnavailable(
                f"the store at {self._place.shown!r} is not open; await store.open() first, and use it before close()"
            )
        return self._client

    def _translated(self, error: Exception, doing: str) -> SagaError:
        where, said = self._place.shown, f"{type(error).__name__}: {error}"
        if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)):
            return ConfigurationError(f"Redis at {where!r} refuses this user while {doing} ({said}); check its password and rights")
        if isinstance(error, exceptions.BusyLoadingError):
            return StoreUnavailable(f"Redis at {where!r} is still loading its data; it can be used when it is done")
        if isinstance(error, exceptions.ReadOnlyError):
            return StoreUnavailable(f"Redis at {where!r} is a replica and takes no writes ({said}); use the primary's address")
        if isinstance(error, exceptions.OutOfMemoryError):
            return StoreUnavailable(f"Redis at {where!r} has no memory left ({said}), nothing was written; raise its maxmemory")
        if isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError, OSError, asyncio.IncompleteReadError)):
            unknown = " and it is unknown whether it happened: the messages come again and decide" if doing == "committing" else ""
            return StoreUnavailable(f"the connection to Redis at {where!r} failed while {doing} ({said}){unknown}")
        if isinstance(error, exceptions.ResponseError) and "WRONGTYPE" in said:
            return ConfigurationError(
                f"a key of the sagas at {where!r} is not as this saga_choreo made it ({said}, while {doing}); "
                f"something else writes under the prefix {self._place.prefix!r}: give one of the two another prefix"
            )
        return StoreUnavailable(f"Redis at {where!r} refused what it was asked while {doing} ({said}); its log says more")


async def _uncovered(work: Awaitable[T]) -> T:
    """What the client gives or raises; but a cancellation that it has covered up (it may turn one into an error of the connection, or
    into nothing) passes through."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await work
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError
