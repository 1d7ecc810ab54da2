"""Brokers and stores by URL scheme, found through entry points, so that the toolkit imports no client.

A scheme leads to one of three answers: the adapter; "its client is not installed", with the command that installs it; or "unknown",
with what is known. No message shows a password: URLs are redacted first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, cast

from saga_choreo.errors import AdapterNotInstalled, ConfigurationError
from saga_choreo.ports import Broker, Jobs, Letters, Reader, Scans, Store

__all__ = ["LetterStore", "WholeStore", "broker_schemes", "make_broker", "make_store", "redacted", "store_schemes", "with_letters"]

_BROKERS = "saga_choreo.brokers"
_STORES = "saga_choreo.stores"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# Greedy up to the last '@': a password may hold any character, and hiding too much does no harm. A path ('///') has no user.
_USER_INFO = re.compile(r"(?<=:)//(?!/)\S*@")
_SECRET_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:pass|secret|token|key|credential)[^=&\s]*=)[^&#\s]*")


class WholeStore(Store, Scans, Reader, Protocol):
    """A store with all three of its sides, as every adapter's object is."""


class LetterStore(WholeStore, Letters, Jobs, Protocol):
    """One that people can work on dead letters in."""


def with_letters(store: WholeStore) -> LetterStore:
    """The same store. Raises ConfigurationError for one that keeps quarantined messages only."""
    if not store.features.letters:
        raise ConfigurationError(
            f"the {store.features.name} store cannot list, replay or archive dead letters; parked steps are resolved with: saga-choreo steps"
        )
    return cast("LetterStore", store)


def redacted(url: str) -> str:
    """The URL without user, password and secret query values, fit for messages and logs."""
    return _SECRET_QUERY.sub(r"\1***", _USER_INFO.sub("//***@", url))


def broker_schemes() -> tuple[str, ...]:
    return _schemes(_BROKERS)


def store_schemes() -> tuple[str, ...]:
    return _schemes(_STORES)


def make_broker(url: str, *, prefix: str = "saga") -> Broker:
    """The broker for this URL, not opened yet. Raises ConfigurationError (unknown scheme) or AdapterNotInstalled."""
    broker: Broker = _adapter(_BROKERS, "broker", url)(url, prefix=prefix)
    return broker


def make_store(url: str, **options: Any) -> WholeStore:
    """The store for this URL, not opened yet; `options` are the adapter's own. Raises ConfigurationError (unknown scheme) or
    AdapterNotInstalled."""
    store: WholeStore = _adapter(_STORES, "store", url)(url, **options)
    return store


def _schemes(group: str) -> tuple[str, ...]:
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def _adapter(group: str, kind: str, url: str) -> Callable[..., Any]:
    scheme = _scheme_of(group, kind, url)
    found = {entry.value: entry for entry in entry_points(group=group, name=scheme)}
    if len(found) > 1:
        raise ConfigurationError(f"{kind} scheme {scheme!r} has several adapters: {sorted(found)}; uninstall all but one of them")
    if not found:
        raise _no_adapter(group, kind, scheme)
    (entry,) = found.values()
    return _load(entry, kind, scheme)


def _scheme_of(group: str, kind: str, url: str) -> str:
    match = _SCHEME.match(url)
    if match is None:
        known = ", ".join(f"{scheme}://..." for scheme in _schemes(group))
        raise ConfigurationError(f"{kind} URL {redacted(url)!r} has no scheme; begin it with one of: {known}")
    return match[1].lower()


def _no_adapter(group: str, kind: str, scheme: str) -> ConfigurationError:
    known = _schemes(group)
    close = difflib.get_close_matches(scheme, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return ConfigurationError(f"{kind} scheme {scheme!r} is not known; {meant}use one of: {', '.join(known)}")


def _load(entry: EntryPoint, kind: str, scheme: str) -> Callable[..., Any]:
    own = entry.module.partition(".")[0]
    try:
        loaded: Callable[..., Any] = entry.load()
    except ImportError as exc:
        missing = (exc.name or "").partition(".")[0]
        if not missing or missing in (own, "saga_choreo"):
            raise  # not a client that is missing, but a broken adapter
        raise AdapterNotInstalled(
            f"{kind} {scheme!r} needs the package {missing}, which is not installed; run: pip install '{_requirement(entry, own)}'"
        ) from exc
    return loaded


def _requirement(entry: EntryPoint, own: str) -> str:
    """What pip must install: an extra of this distribution, or again the distribution the adapter came with."""
    if own.startswith("saga_choreo_"):
        return f"saga-choreo[{own.removeprefix('saga_choreo_')}]"
    return entry.dist.name if entry.dist is not None else own
