"""What the URL says, checked once. Secrets are kept apart from what is shown, and are never part of a message."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from saga_choreo.errors import ConfigurationError

__all__ = ["Options", "parse_url"]

_SCHEMES = ("kafka", "kafka+ssl")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_EXAMPLE = "kafka://host:9092"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every number may be given in the URL's query, e.g. `kafka://host:9092?partitions=12&replicas=3&min_insync=2`.

    `ack_wait`: seconds until an unacknowledged message is delivered again; `stall`: seconds without a `receive`, while messages
    are overdue, after which the agent's partitions go to the others; `prefetch`: messages held at most, a quarter of it of one
    partition; `commit_every`: seconds between two commits of offsets; `session`: seconds until the messages of a dead agent go to the
    others (also where the server takes longer ones only: see `peers`); `heartbeat`: seconds between two signs of life; `partitions`,
    `replicas`, `min_insync`, `horizon` (seconds kept): of topics that are made; `publish_timeout`: seconds until an unconfirmed
    publish counts as unknown; `request_timeout`: the same for any other request; `open_timeout`: for all of `open`; `in_flight`,
    `in_flight_bytes`: unconfirmed publishes; `batch_bytes`: most that is sent to a partition at once. Files, for `kafka+ssl://`:
    `ca_file` (who may have issued the server's certificate), `cert_file` and `key_file` (our own); they are read again for every client
    that is made.
    """

    servers: tuple[str, ...]
    secure: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    mechanism: str = "PLAIN"
    ack_wait: float = 10.0
    stall: float = 30.0
    prefetch: int = 2048
    commit_every: float = 0.2
    session: float = 3.5
    heartbeat: float = 0.6
    partitions: int = 6
    replicas: int = 1
    min_insync: int = 1
    horizon: float = 7 * 86400.0
    publish_timeout: float = 5.0
    request_timeout: float = 12.0
    open_timeout: float = 8.0
    in_flight: int = 4096
    in_flight_bytes: int = 16 * 1024 * 1024
    batch_bytes: int = 512 * 1024

    @property
    def shown(self) -> str:
        """The servers, without user and password: for logs and errors."""
        return f"{'kafka+ssl' if self.secure else 'kafka'}://{','.join(self.servers)}"

    def tls(self) -> ssl.SSLContext | None:
        """Raises ConfigurationError where a file is missing or not what it should be."""
        if not self.secure:
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


_FILES = ("ca_file", "cert_file", "key_file")
_NUMBERS: dict[str, Callable[[str], float]] = {
    each.name: int if each.type == "int" else float for each in fields(Options) if each.type in ("int", "float")
}


def parse_url(url: str) -> Options:
    """`kafka://[user:password@]host[:port][,host...][?option=value&...]`; `kafka+ssl://` for TLS, `mechanism` is PLAIN or a SCRAM."""
    scheme, found, rest = url.partition("://")
    if not found or scheme not in _SCHEMES:
        raise ConfigurationError(
            f"broker URL with scheme {scheme[:16]!r} is not for Kafka; write {_EXAMPLE}, or kafka+ssl://host:9093 for TLS"
        )
    hosts, _, query = rest.partition("?")
    credentials, _, hosts = hosts.rpartition("@")
    user, _, password = (unquote(part) for part in credentials.partition(":"))
    servers = tuple(_server(host) for host in hosts.rstrip("/").split(",") if host.strip())
    if not servers:
        raise ConfigurationError(f"broker URL names no server; write {_EXAMPLE}")
    texts = dict(parse_qsl(query, keep_blank_values=True))
    files = {name: texts.pop(name) for name in _FILES if name in texts}
    mechanism = texts.pop("mechanism", "PLAIN").upper()
    if mechanism not in _MECHANISMS:
        raise ConfigurationError(f"broker URL option 'mechanism' is {mechanism!r}; use one of: {', '.join(_MECHANISMS)}")
    if files and scheme != "kafka+ssl":
        raise ConfigurationError(f"broker URL has {sorted(files)!r} but asks for no TLS; write kafka+ssl:// before the host")
    if user and scheme == "kafka" and not all(_is_loopback(server) for server in servers):
        raise ConfigurationError(
            f"broker URL would send user and password in the clear to {','.join(servers)!r}; write kafka+ssl:// before the host"
        )
    rest_of_them: dict[str, Any] = {**files, **{name: _number(name, text) for name, text in texts.items()}}
    options = Options(
        servers=servers, secure=scheme == "kafka+ssl", user=user, password=password, mechanism=mechanism, **rest_of_them
    )
    if 3 * options.heartbeat > options.session:
        raise ConfigurationError(
            f"broker URL option 'heartbeat' is {options.heartbeat:g} s, and 'session' {options.session:g} s: one sign of life that is late "
            "would end it; give at most a third of it"
        )
    return options


def _server(host: str) -> str:
    try:
        parts = urlsplit(f"//{host.strip()}")
        name, port = parts.hostname, parts.port
    except ValueError:
        name, port = None, None
    if not name or port == 0:
        raise ConfigurationError(f"broker URL has no valid host and port in {host!r}; write {_EXAMPLE}")
    return f"{f'[{name}]' if ':' in name else name}:{port or 9092}"


def _is_loopback(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _number(name: str, text: str) -> float:
    kind = _NUMBERS.get(name)
    if kind is None:
        known = sorted({*_NUMBERS, *_FILES, "mechanism"})
        raise ConfigurationError(f"broker URL has an unknown option {name!r}; known are: {', '.join(known)}")
    try:
        value = kind(text)
    except ValueError as exc:
        raise ConfigurationError(f"broker URL option {name!r} is {text!r}; give a number") from exc
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"broker URL option {name!r} is {text!r}; give a number above zero")
    return value
