"""What the URL says, checked once. Secrets are never part of a message."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from saga_choreo.errors import ConfigurationError

__all__ = ["Options", "parse_url"]

_PORTS = {"amqp": 5672, "amqps": 5671}
# The server's own well-known account: whoever can reach it could use it too.
_DEFAULT = "guest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every option may be given in the URL's query, e.g. `amqps://user@host/shop?password_file=/run/secrets/mq&prefetch=100`.
    `ack_wait`: seconds after which a message that was handed out and not settled is handed back; `prefetch`: messages one
    agent holds unsettled; `horizon`: seconds a message waits for a reader that is away; `delivery_limit`: deliveries after
    which the server itself puts a message aside; `queue_max_bytes`: space of a service's queue, -1 for no limit;
    `replicas`: members of each quorum queue, 0 for the server's choice. `publish_timeout`: seconds until an unconfirmed
    publish counts as unknown; `answer_timeout` the same for any other request; `connect_timeout`: seconds for one attempt,
    `open_timeout` for all of `open`; `heartbeat`: seconds, half-open connections are noticed after two of them.
    `in_flight`, `in_flight_bytes`: unconfirmed publishes; `message_max_bytes`: body and headers of one message.
    `watch_every`: seconds between two looks at bindings and at what was put aside. `settle`: seconds to wait once after a
    queue was made: RabbitMQ writes its name down a little later, and a node that is killed before that has lost the queue.
    `declare=false`: check what is there and create nothing. `password_file`: read at each connect, so that a password can
    be changed under way. `ca_file`, `cert_file`, `key_file`: for `amqps://`; `auth=external`: the client certificate is the
    user.
    """

    servers: tuple[tuple[str, int], ...]
    tls: bool = False
    vhost: str = "/"
    user: str = _DEFAULT
    password: str = field(default=_DEFAULT, repr=False)
    ack_wait: float = 20.0
    prefetch: int = 300
    horizon: float = 7 * 86400.0
    delivery_limit: int = 100
    queue_max_bytes: int = -1
    replicas: int = 0
    publish_timeout: float = 5.0
    answer_timeout: float = 10.0
    connect_timeout: float = 3.0
    open_timeout: float = 8.0
    heartbeat: int = 5
    in_flight: int = 1024
    in_flight_bytes: int = 16 * 1024 * 1024
    message_max_bytes: int = 1024 * 1024
    watch_every: float = 30.0
    settle: float = 1.0
    declare: bool = True
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    auth: str = "plain"

    @property
    def shown(self) -> str:
        """Servers and virtual host: for logs and errors."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.servers)
        return f"{'amqps' if self.tls else 'amqp'}://{hosts}/{'' if self.vhost == '/' else self.vhost}"

    def secret(self) -> str:
        """Raises ConfigurationError when the password's file cannot be read."""
        if not self.password_file:
            return self.password
        try:
            return Path(self.password_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(
                f"broker URL option 'password_file' names {self.password_file!r}, which cannot be read ({exc}); correct it"
            ) from exc

    def tls_context(self) -> ssl.SSLContext | None:
        """Read again at each connect: certificates are renewed while agents run."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file or None)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigurationError(
                f"the certificates in the broker URL cannot be used ({exc}); correct 'ca_file', 'cert_file' and 'key_file'"
            ) from exc
        return context


def _bool(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return words[text.lower()]


_KINDS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": _bool, "str": str}
_FROM_URL = ("servers", "tls", "vhost", "user", "password")
_KNOWN = {each.name: _KINDS[str(each.type)] for each in fields(Options) if each.name not in _FROM_URL}
_MAY_BE_UNSET = {"queue_max_bytes": -1, "replicas": 0, "settle": 0}


def _option(name: str, text: str) -> Any:
    kind = _KNOWN.get(name)
    if kind is None:
        raise ConfigurationError(f"broker URL has an unknown option {name!r}; known are: {', '.join(sorted(_KNOWN))}")
    try:
        value = kind(text)
    except (ValueError, KeyError) as exc:
        wanted = "true or false" if kind is _bool else "a number"
        raise ConfigurationError(f"broker URL option {name!r} is {text!r}; give {wanted}") from exc
    if kind in (int, float) and not (0 < value < 2**40) and value != _MAY_BE_UNSET.get(name):
        raise ConfigurationError(f"broker URL option {name!r} is {text!r}; give a number above zero")
    if name == "auth" and value not in ("plain", "external"):
        raise ConfigurationError(f"broker URL option 'auth' is {text!r}; give plain or external")
    return value


def _server(host: str, scheme: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{host}")
        if parts.hostname and parts.port != 0:
            return parts.hostname, parts.port or _PORTS[scheme]
    except ValueError:
        pass
    raise ConfigurationError(f"broker URL has no valid host and port in {host!r}; write amqp://user:password@host:5672/vhost")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_url(url: str) -> Options:
    """`amqp://[user:password@]host[:port][,host...][/vhost][?option=value&...]`; `amqps://` for TLS."""
    scheme, found, rest = url.partition("://")
    scheme = scheme.lower()
    if not found or scheme not in _PORTS:
        raise ConfigurationError(
            f"broker URL with scheme {scheme[:16]!r} is not for RabbitMQ; write amqp://user:password@host:5672/vhost"
        )
    place, _, query = rest.partition("?")
    # A password may hold a slash that nobody escaped: user and password end at the last '@'.
    credentials, _, place = place.rpartition("@")
    hosts, _, vhost = place.partition("/")
    servers = tuple(_server(host.strip(), scheme) for host in hosts.split(",") if host.strip())
    if not servers:
        raise ConfigurationError("broker URL names no server; write amqp://user:password@host:5672/vhost")
    given = {name: _option(name, text) for name, text in parse_qsl(query, keep_blank_values=True)}
    user, _, password = credentials.partition(":")
    options = Options(
        servers=servers,
        tls=scheme == "amqps",
        vhost=unquote(vhost) or "/",
        user=unquote(user) if credentials else _DEFAULT,
        password=unquote(password) if credentials else _DEFAULT,
        **given,
    )
    _refuse_default_account(options)
    return options


def _refuse_default_account(options: Options) -> None:
    is_default = options.auth == "plain" and not options.password_file and (options.user, options.password) == (_DEFAULT, _DEFAULT)
    if is_default and not all(_is_loopback(host) for host, _ in options.servers):
        raise ConfigurationError(
            f"broker URL for {options.shown!r} uses the default account 'guest', which everybody knows;"
            " make an account for the service, and write amqp://user:password@host/vhost"
        )
