"""What the URL says, checked once. Secrets stay inside the server URLs and are never part of a message."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, fields
from urllib.parse import parse_qsl, urlsplit

from saga_choreo.errors import ConfigurationError

__all__ = ["Options", "parse_url"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every number may be given in the URL's query, e.g. `nats://host:4222?ack_wait=4&replicas=3`.

    `ack_wait`: seconds until an unacknowledged message is delivered again; `prefetch`: messages one agent holds or has asked
    for; `max_ack_pending`: the same for all agents of a service; `horizon`: seconds a message is kept for a reader that is
    away; `publish_timeout`: seconds until an unconfirmed publish counts as unknown; `connect_timeout`: seconds for one
    attempt, `open_timeout` for all of `open`; `in_flight` and `in_flight_bytes`: unconfirmed publishes;
    `events_max_bytes`, `control_max_bytes`: space reserved on the server (-1: none). Files, for `tls://`: `ca_file` (who may
    have issued the server's certificate), `cert_file` and `key_file` (our own); they are read again at every connection.
    """

    servers: tuple[str, ...]
    ack_wait: float = 4.0
    prefetch: int = 512
    max_ack_pending: int = 8192
    horizon: float = 7 * 86400.0
    replicas: int = 1
    publish_timeout: float = 5.0
    connect_timeout: float = 2.0
    open_timeout: float = 8.0
    # The server answers a burst only after it has synced all of it: 1024 take about 0.3 s, 3 s on a slow, busy disk.
    in_flight: int = 1024
    in_flight_bytes: int = 16 * 1024 * 1024
    events_max_bytes: int = -1
    control_max_bytes: int = -1
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def tls(self) -> ssl.SSLContext | None:
        """Raises ConfigurationError where a file is missing or not what it should be."""
        if not self.servers[0].startswith("tls://"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file or None)
        except OSError as exc:
            raise ConfigurationError(
                f"a file for TLS cannot be used ({exc}): ca_file {self.ca_file!r}, cert_file {self.cert_file!r},"
                f" key_file {self.key_file!r}; correct the broker URL"
            ) from exc
        return context

    @property
    def shown(self) -> str:
        """The servers without user, password or token: for logs and errors."""
        return ",".join(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" for parts in map(urlsplit, self.servers))


_NUMBERS: dict[str, Callable[[str], float]] = {
    field.name: int if field.type == "int" else float for field in fields(Options) if field.type in ("int", "float")
}
_FILES = ("ca_file", "cert_file", "key_file")


def _number(name: str, text: str) -> float:
    kind = _NUMBERS.get(name)
    if kind is None:
        known = ", ".join(sorted((*_NUMBERS, *_FILES)))
        raise ConfigurationError(f"broker URL has an unknown option {name!r}; known are: {known}")
    try:
        value = kind(text)
    except ValueError as exc:
        raise ConfigurationError(f"broker URL option {name!r} is {text!r}; give a number") from exc
    if not (value > 0 or (value == -1 and name.endswith("_max_bytes"))) or value == float("inf"):
        raise ConfigurationError(f"broker URL option {name!r} is {text!r}; give a number above zero")
    return value


def parse_url(url: str) -> Options:
    """`nats://[user:pass@|token@]host[:port][,host...][?option=value&...]`; `tls://` for TLS."""
    scheme, found, rest = url.partition("://")
    if not found or scheme not in ("nats", "tls"):
        raise ConfigurationError(
            f"broker URL with scheme {scheme[:16]!r} is not for NATS; write nats://host:4222 or tls://host:4222"
        )
    hosts, _, query = rest.partition("?")
    servers = tuple(
        f"{scheme}://{host.strip().removeprefix(f'{scheme}://').rstrip('/')}" for host in hosts.split(",") if host.strip()
    )
    if not servers:
        raise ConfigurationError("broker URL names no server; write nats://host:4222")
    for server in servers:
        try:
            parts = urlsplit(server)
            bad = not parts.hostname or parts.port == 0
        except ValueError:
            bad = True
        if bad:
            where = server.rpartition("@")[2]
            raise ConfigurationError(f"broker URL has no valid host and port in {where!r}; write nats://host:4222")
    given = dict(parse_qsl(query, keep_blank_values=True))
    files = {name: given.pop(name) for name in _FILES if name in given}
    if files and scheme != "tls":
        raise ConfigurationError(f"broker URL has {sorted(files)!r} but asks for no TLS; write tls://host:4222")
    numbers = {name: _number(name, text) for name, text in given.items()}
    return Options(servers=servers, **numbers, **files)  # type: ignore[arg-type]  # each number was read as its field's own type
