"""From "package.module:attribute" to the object: an agent to run, or choreographies to look at.

The current directory comes first on the path, as with `python -m`. Each way it can go wrong has a message of its own; what
went wrong inside the user's module stays attached as the cause, and is shown with `--debug`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType
from typing import Protocol, TypeGuard, runtime_checkable

from saga_choreo.cli.lazy import suggestion
from saga_choreo.errors import ConfigurationError
from saga_choreo.model.choreography import Choreography, ChoreographyStep
from saga_choreo.runtime.settings import read_settings

__all__ = [
    "Participant",
    "Runnable",
    "app_or_setting",
    "find_agent",
    "find_choreographies",
    "find_described",
    "find_services",
    "find_start",
    "is_module",
]


@runtime_checkable
class Runnable(Protocol):
    """What `run` needs of an agent."""

    @property
    def name(self) -> str: ...
    @property
    def choreographies(self) -> tuple[Choreography, ...]: ...
    async def run(self, *, stop: asyncio.Event) -> None: ...


@runtime_checkable
class Participant(Runnable, Protocol):
    """An agent that may know only its own steps of a choreography."""

    @property
    def prefix(self) -> str: ...
    @property
    def open_choreography(self) -> Choreography | None: ...
    @property
    def plain_events(self) -> tuple[str, ...]: ...
    def own_steps(self) -> tuple[ChoreographyStep, ...]: ...


def app_or_setting(app: str | None) -> str:
    """The argument, or SAGA_APP."""
    target = app or read_settings(os.environ).app
    if not target:
        raise ConfigurationError("no app was named; give it as an argument ('shop.payment:agent') or set SAGA_APP")
    return target


def find_agent(target: str) -> Runnable:
    """The agent that the target names, or the only one in the module it names."""
    found = _locate(target)
    if isinstance(found, ModuleType):
        return _only(found, target, _is_agent, "agent")
    if not _is_agent(found):
        raise ConfigurationError(f"{target!r} is a {type(found).__name__}, not an Agent; name an Agent: 'module:attribute'")
    return found


def find_choreographies(target: str) -> tuple[Choreography, ...]:
    """The choreography that the target names, those of the agent it names, or all that the module it names holds."""
    found = find_described(target)
    for one in found:
        if not isinstance(one, Choreography):
            raise ConfigurationError(
                f"agent {one.name!r} in {target!r} knows only its own steps; this needs a whole choreography: name a shared one"
            )
    return tuple(one for one in found if isinstance(one, Choreography))


def find_described(target: str) -> tuple[Choreography | Participant, ...]:
    """Choreographies as the target gives them, and agents that know only their own steps of one."""
    found = _locate(target)
    if isinstance(found, Choreography):
        return (found,)
    if _is_agent(found):
        return tuple(_described_by(found))
    if not isinstance(found, ModuleType):
        raise ConfigurationError(
            f"{target!r} is a {type(found).__name__}, neither a Choreography nor an Agent; name one of them: 'module:attribute'"
        )
    held = list(vars(found).values())
    several: list[Choreography | Participant] = [c for c in held if isinstance(c, Choreography) and not c.is_open]
    several = several or [one for agent in held if _is_agent(agent) for one in _described_by(agent)]
    if not several:
        raise ConfigurationError(f"module {target!r} holds no Choreography and no Agent; name one: '{target}:attribute'")
    return tuple(dict.fromkeys(several))


def find_services(target: str) -> tuple[Choreography | Participant, ...]:
    """As `find_described`, but an agent that is named stands for itself, whatever it takes part in."""
    found = _locate(target)
    return (found,) if _is_agent(found) and isinstance(found, Participant) else find_described(target)


def find_start(target: str) -> tuple[Callable[..., object], object]:
    """The function that makes start events, and what its module calls `check` (None when there is none)."""
    found = _locate(target)
    if isinstance(found, ModuleType) or not callable(found):
        raise ConfigurationError(
            f"{target!r} is a {type(found).__name__}, not a function; name one that makes the start event: 'module:start'"
        )
    if inspect.iscoroutinefunction(found):
        raise ConfigurationError(f"{target!r} is an async function; write a plain one that returns the start event")
    name = target.partition(":")[0]
    check = getattr(_locate(name), "check", None)
    if check is not None and not inspect.iscoroutinefunction(check):
        raise ConfigurationError(f"{name + ':check'!r} is not an async function; write `async def check(saga_id, state, fetch)`")
    return found, check


def _described_by(agent: Runnable) -> Iterator[Choreography | Participant]:
    yield from agent.choreographies
    if isinstance(agent, Participant) and agent.open_choreography is not None:
        yield agent


def _is_agent(value: object) -> TypeGuard[Runnable]:
    return isinstance(value, Runnable) and not isinstance(value, type)


def _only(module: ModuleType, target: str, wanted: Callable[[object], TypeGuard[Runnable]], noun: str) -> Runnable:
    found = {name: value for name, value in vars(module).items() if not name.startswith("_") and wanted(value)}
    distinct = {id(value): value for value in found.values()}
    if len(distinct) != 1:
        names = ", ".join(f"{target}:{name}" for name in found) or "none"
        raise ConfigurationError(f"module {target!r} holds {len(distinct)} {noun}s ({names}); name one: '{target}:attribute'")
    (only,) = distinct.values()
    return only


def _locate(target: str) -> object:
    name, colon, attribute = target.partition(":")
    if not name or (colon and not attribute) or "/" in name or name.endswith(".py"):
        raise ConfigurationError(f"app {target!r} is not of the form 'package.module' or 'package.module:attribute'; correct it")
    found: object = _import(name)
    for part in attribute.split(".") if attribute else ():
        try:
            found = getattr(found, part)
        except AttributeError:
            known = tuple(word for word in vars(found) if not word.startswith("_")) if hasattr(found, "__dict__") else ()
            text = f"{name!r} has no attribute {attribute!r}.{suggestion(part, known)} Check the name after ':'"
            raise ConfigurationError(text) from None
        except Exception as exc:
            raise ConfigurationError(
                f"reading {target!r} failed with {type(exc).__name__}: {exc}; add --debug to see the traceback"
            ) from exc
    return found


def is_module(name: str) -> bool:
    """Whether there is a module of this name at the top, without importing it."""
    _look_here()
    return bool(name) and find_spec(name) is not None


def _look_here() -> str:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    return here


def _import(name: str) -> ModuleType:
    here = _look_here()
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        # Only a module on the way to the one named is "not found"; any other is missing inside the user's code.
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise _broken(name, exc) from exc
        known = tuple(found.name for found in iter_modules([here]))
        meant = suggestion(name.partition(".")[0], known) if exc.name == name.partition(".")[0] else ""
        raise ConfigurationError(
            f"there is no module {exc.name!r}, looked for from {here!r}.{meant} Run the command where the package is, or install it"
        ) from exc
    except (Exception, SystemExit) as exc:  # a script that was meant to be run, not imported, ends the process
        raise _broken(name, exc) from exc


def _broken(name: str, exc: BaseException) -> ConfigurationError:
    return ConfigurationError(f"importing {name!r} failed with {type(exc).__name__}: {exc}; add --debug to see the traceback")
