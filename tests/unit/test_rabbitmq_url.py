"""What the RabbitMQ adapter reads from its URL, and how it calls things. No server needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Channel, ChannelKind
from saga_choreo_rabbitmq.later import step_ms
from saga_choreo_rabbitmq.names import Names, escape, unescape
from saga_choreo_rabbitmq.options import parse_url


def test_a_url_says_servers_account_virtual_host_and_options() -> None:
    options = parse_url("amqps://us%40er:p%2Fw@one,two:5679/sh%2Fop?prefetch=7&ack_wait=2.5&declare=false&queue_max_bytes=-1")
    assert options.servers == (("one", 5671), ("two", 5679))
    assert (options.tls, options.vhost, options.user, options.secret()) == (True, "sh/op", "us@er", "p/w")
    assert (options.prefetch, options.ack_wait, options.declare, options.queue_max_bytes) == (7, 2.5, False, -1)
    assert options.shown == "amqps://one:5671,two:5679/sh/op"


def test_the_virtual_host_is_the_default_one_unless_it_is_named() -> None:
    assert [parse_url(f"amqp://localhost{path}").vhost for path in ("", "/", "/a")] == ["/", "/", "a"]


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("nats://localhost", "scheme 'nats'"),
        ("amqp://", "no server"),
        ("amqp://a:b@:5672", "no valid host"),
        ("amqp://a:b@host:99999", "no valid host"),
        ("amqp://localhost?prefetch=0", "above zero"),
        ("amqp://localhost?prefetch=many", "give a number"),
        ("amqp://localhost?declare=perhaps", "true or false"),
        ("amqp://localhost?prefatch=1", "unknown option 'prefatch'"),
        ("amqp://localhost?auth=magic", "plain or external"),
        ("amqp://rabbit.example", "default account"),
        ("amqp://guest:guest@10.0.0.1", "default account"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_with_the_reason(url: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        parse_url(url)


def test_the_default_account_is_for_loopback_only() -> None:
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert parse_url(f"amqp://{host}").user == "guest"


def test_no_message_and_no_representation_shows_the_password(tmp_path: Path) -> None:
    options = parse_url("amqp://agent:s3cret@host/v")
    assert "s3cret" not in repr(options) + options.shown
    with pytest.raises(ConfigurationError) as refusal:
        parse_url("amqp://agent:s3cret@ho st:x/v")
    assert "s3cret" not in str(refusal.value)


def test_a_password_in_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    options = parse_url(f"amqp://agent@host?password_file={file}")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        options.secret()
    for word in ("one", "two"):
        file.write_text(f"{word}\n")
        assert options.secret() == word


def test_certificates_that_are_not_there_are_a_matter_of_configuration() -> None:
    with pytest.raises(ConfigurationError, match="ca_file"):
        parse_url("amqps://agent:x@host?ca_file=/nowhere.pem").tls_context()


@pytest.mark.parametrize("name", ["order.created", "Pay ment", "a*b#c", "grün", "a:2Eb", "..", "=" * 20])
def test_a_name_comes_back_from_its_routing_key(name: str) -> None:
    names = Names("saga")
    for kind in (ChannelKind.EVENT, ChannelKind.CONTROL):
        key = names.key(Channel(kind, name))
        assert not set("*# ") & set(key)
        assert names.channel(key, "me") == Channel(kind, name)


def test_a_key_from_somebodys_hand_leads_to_the_service_itself() -> None:
    names = Names("saga")
    for key in ("", "nonsense", "event.", "dlq", "defs"):
        assert names.channel(key, "me") == Channel(ChannelKind.CONTROL, "me")


def test_names_that_amqp_cannot_carry_are_refused() -> None:
    for name in ("", "x" * 201, "ü" * 40):
        with pytest.raises(ConfigurationError):
            escape(name)
    with pytest.raises(ConfigurationError):
        Names("a.b")
    assert unescape(escape("a:b")) == "a:b"


def test_a_delay_is_rounded_up_to_one_two_or_five() -> None:
    delays = (0.001, 0.1, 0.11, 1, 1.5, 2.0, 4, 5, 5.1, 30, 3600)
    assert [step_ms(delay) for delay in delays] == [100, 100, 200, 1000, 2000, 2000, 5000, 5000, 10_000, 50_000, 5_000_000]
