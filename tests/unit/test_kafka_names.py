"""The naming scheme and the URL of the Kafka adapter: pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_choreo.errors import ConfigurationError
from saga_choreo.ports import Channel, ChannelKind
from saga_choreo_kafka.names import Names, escape, unescape
from saga_choreo_kafka.options import parse_url

_TEXT = st.text(min_size=1, max_size=40).filter(lambda text: "\ud800" not in text and text.isprintable())


@pytest.mark.parametrize(
    ("channel", "topic"),
    [
        (Channel(ChannelKind.EVENT, "order.created"), "saga.event.order.created"),
        (Channel(ChannelKind.EVENT, "order_created"), "saga.event.order-5Fcreated"),
        (Channel(ChannelKind.EVENT, "order-created"), "saga.event.order-created"),
        (Channel(ChannelKind.EVENT, "order-5Fcreated"), "saga.event.order-2D5Fcreated"),
        (Channel(ChannelKind.CONTROL, "pay ment"), "saga.control.pay-20ment"),
        (Channel(ChannelKind.OUTCOME), "saga.outcome"),
        (Channel(ChannelKind.DLQ), "saga.dlq"),
        (Channel(ChannelKind.OBSERVE), "saga.observe"),
    ],
)
def test_a_channel_has_one_topic_and_is_read_back_from_it(channel: Channel, topic: str) -> None:
    names = Names("saga")
    assert names.topic(channel) == topic
    assert names.channel(topic) == channel


def test_all_notices_are_in_one_topic() -> None:
    assert Names("saga").topic(Channel(ChannelKind.DEFS, "define.0a1b")) == "saga.defs"


@given(_TEXT)
def test_an_escaped_name_is_safe_and_comes_back_unchanged(name: str) -> None:
    part = escape(name)
    assert unescape(part) == name
    assert part.isascii()
    assert all(character.isalnum() or character in ".-" for character in part)


@given(_TEXT, _TEXT)
def test_two_names_never_share_a_topic_nor_differ_only_where_kafka_sees_no_difference(one: str, other: str) -> None:
    assert (escape(one).replace("_", ".") == escape(other).replace("_", ".")) == (one == other)


@pytest.mark.parametrize("prefix", ["", "a.b", "a b", "*", "x" * 33])
def test_a_prefix_that_would_break_topics_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError):
        Names(prefix)


@pytest.mark.parametrize("name", ["", "x" * 250])
def test_a_name_that_makes_no_topic_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        Names("saga").topic(Channel(ChannelKind.EVENT, name))


def test_a_url_gives_servers_with_their_ports_and_options() -> None:
    options = parse_url("kafka://one,two:9094,[::1]:9095?partitions=12&ack_wait=2.5")
    assert options.servers == ("one:9092", "two:9094", "[::1]:9095")
    assert (options.partitions, options.ack_wait) == (12, 2.5)
    assert options.shown == "kafka://one:9092,two:9094,[::1]:9095"


def test_user_and_password_are_decoded_and_never_shown() -> None:
    options = parse_url("kafka+ssl://us%40er:p%3Ass@host:9093?mechanism=scram-sha-512")
    assert (options.user, options.password, options.mechanism) == ("us@er", "p:ss", "SCRAM-SHA-512")
    assert "p:ss" not in f"{options!r} {options.shown}"


@pytest.mark.parametrize(
    "url", ["kafka://me:s3cret@localhost", "kafka://me:s3cret@127.0.0.1:1,[::1]", "kafka+ssl://me:s3cret@far.example"]
)
def test_credentials_go_over_tls_or_stay_on_this_machine(url: str) -> None:
    assert parse_url(url).password == "s3cret"


@pytest.mark.parametrize(
    "url",
    [
        "kafka://me:s3cret@far.example",
        "kafka://me:s3cret@localhost,far.example",
        "amqp://me:s3cret@host",
        "kafka://",
        "kafka://me:s3cret@localhost:0",
        "kafka://me:s3cret@localhost:x",
        "kafka://me:s3cret@localhost?partitions=many",
        "kafka://me:s3cret@localhost?partitions=-1",
        "kafka://me:s3cret@localhost?ack_wait=inf",
        "kafka://me:s3cret@localhost?no_such=1",
        "kafka://me:s3cret@localhost?heartbeat=2",
        "kafka://me:s3cret@localhost?session=1",
        "kafka://me:s3cret@localhost?mechanism=GSSAPI",
        "kafka://me:s3cret@localhost?ca_file=/ca.pem",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_url(url)
    assert "s3cret" not in str(refusal.value)


def test_a_file_for_tls_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no-such-file"):
        parse_url("kafka+ssl://host?ca_file=/no-such-file").tls()
