"""The naming scheme and the URL of the NATS adapter: pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Channel, ChannelKind
from saga_choreo_nats.names import Names, escape, unescape
from saga_choreo_nats.options import parse_url

_TEXT = st.text(min_size=1, max_size=40).filter(lambda text: "\ud800" not in text and text.isprintable())


@pytest.mark.parametrize(
    ("channel", "subject"),
    [
        (Channel(ChannelKind.EVENT, "order.created"), "saga.event.order.created"),
        (Channel(ChannelKind.CONTROL, "payment"), "saga.control.payment"),
        (Channel(ChannelKind.CONTROL, "pay.ment"), "saga.control.pay=2Ement"),
        (Channel(ChannelKind.OUTCOME), "saga.outcome"),
        (Channel(ChannelKind.DEFS, "define.0a1b"), "saga.defs.define.0a1b"),
        (Channel(ChannelKind.DEFS, "a..b"), "saga.defs.a=2E=2Eb"),
        (Channel(ChannelKind.DLQ), "saga.dlq"),
        (Channel(ChannelKind.OBSERVE), "saga.observe"),
    ],
)
def test_a_channel_has_one_subject_and_is_read_back_from_it(channel: Channel, subject: str) -> None:
    names = Names("saga")
    assert names.subject(channel) == subject
    assert names.channel(subject) == channel


@given(_TEXT, st.booleans())
def test_an_escaped_name_is_safe_and_comes_back_unchanged(name: str, dotted: bool) -> None:
    token = escape(name, dotted=dotted)
    assert unescape(token) == name
    assert token.isascii()
    assert not set(token) & set(" \t\r\n*>/\\")
    assert all(token.split("."))
    assert dotted or "." not in token


@given(_TEXT, _TEXT)
def test_two_names_never_share_a_token(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@pytest.mark.parametrize("prefix", ["", "a.b", "a b", "*", "x" * 33])
def test_a_prefix_that_would_break_subjects_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError):
        Names(prefix)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        Names("saga").subject(Channel(ChannelKind.EVENT, ""))


def test_a_url_may_name_several_servers_and_options() -> None:
    options = parse_url("nats://user:secret@one:4222,two:4333?ack_wait=2.5&replicas=3")
    assert options.servers == ("nats://user:secret@one:4222", "nats://two:4333")
    assert (options.ack_wait, options.replicas, options.prefetch) == (2.5, 3, 512)


def test_what_is_shown_of_a_url_has_no_secrets() -> None:
    shown = parse_url("tls://user:secret@one:4222,token@two:4222").shown
    assert shown == "tls://one:4222,tls://two:4222"


@pytest.mark.parametrize(
    "url",
    [
        "kafka://one",
        "nats://",
        "one:4222",
        "nats://one:port",
        "nats://one:0",
        "nats://one?ack_wait=soon",
        "nats://one?ack_wait=0",
        "nats://one?ack_wait=-1",
        "nats://one?ack_wait=nan",
        "nats://one?replicas=1.5",
        "nats://one?prefetch=inf",
        "nats://one?unknown=1",
        "nats://user:secret@:4222",
        "nats://user:secret@one:x",
    ],
)
def test_a_wrong_url_is_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_url(url)
    assert "secret" not in str(refusal.value)
