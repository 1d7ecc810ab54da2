"""The wire format: every envelope comes back as it was sent, and nothing else gets in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_choreo.codec.faults import Fault
from saga_choreo.codec.headers import HEADERS_BYTES_MAX
from saga_choreo.codec.notices import NOTICES, OPERATOR_BYTES_MAX, TEXT_BYTES_MAX, VERBS
from saga_choreo.codec.wire import BODY_BYTES_MAX, KEY_BYTES_MAX, REASON_BYTES_MAX, checked_key, decode, encode
from saga_choreo.errors import DecodeError, ResultTooLarge
from saga_choreo.model.envelope import Channel, ChannelKind, Envelope, MessageKind, Parking
from saga_choreo.model.event import EventRef
from saga_choreo.model.ids import saga_id_at
from saga_choreo.model.states import Cause, Outcome

SAGA = saga_id_at(1_790_000_000_000, b"0123456789")
TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def done(**changes: object) -> Envelope:
    envelope = Envelope(
        kind=MessageKind.DONE,
        saga_id=SAGA,
        choreography="order-processing",
        definition="0123456789abcdef" * 2,
        origin="orders",
        sender="payment",
        channel=Channel(ChannelKind.EVENT, "payment.charged"),
        from_step="charge-payment",
        event=EventRef("payment.charged", 2),
        key="ORDER 7712/ä",
        deadline_ms=1_790_000_100_123,
        payload=b'{"amount": 12345678901234567890123}',
        traceparent=TRACEPARENT,
        tracestate="vendor=1",
        sent_ns=1_790_000_000_123_456_789,
    )
    return envelope._replace(**changes)  # type: ignore[arg-type]  # field names are checked by `_replace` itself


def control(kind: MessageKind, **changes: object) -> Envelope:
    bare = {"key": "", "deadline_ms": None, "payload": b"", "event": None, "channel": Channel(ChannelKind.CONTROL, "stock")}
    return done(kind=kind, **(bare | changes))


def code_of(channel: Channel, headers: Mapping[str, str], body: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(channel, headers, body)
    assert len(str(caught.value)) < 700
    return caught.value.code


def code_with(changes: Mapping[str, str | None], envelope: Envelope | None = None, body: bytes | None = None) -> str:
    envelope = envelope or done()
    headers, sent = encode(envelope)
    for name, value in changes.items():
        headers.pop(name, None)
        if value is not None:
            headers[name] = value
    return code_of(envelope.channel, headers, sent if body is None else body)


names = st.from_regex(r"[a-z][a-z0-9_-]{0,63}", fullmatch=True).filter(lambda name: name != "origin")
event_names = st.from_regex(r"[a-z][a-z0-9_-]{0,20}(\.[a-z][a-z0-9_-]{0,20}){1,3}", fullmatch=True)
events = st.builds(EventRef, event_names, st.integers(1, 2**31 - 1))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def notices(draw: st.DrawFn, kind: MessageKind) -> Parking:
    is_word = kind is MessageKind.RESOLVED
    return Parking(
        attempt=draw(st.integers(0, 2**31 - 1)),
        round=draw(st.integers(0, 2**31 - 1)),
        operator=draw(texts.filter(lambda text: is_word <= len(text.encode()) <= OPERATOR_BYTES_MAX)),
        error=draw(texts.filter(lambda text: len(text.encode()) <= TEXT_BYTES_MAX)),
        resolution=draw(st.sampled_from(VERBS)) if is_word else "",
    )


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    kind = draw(st.sampled_from(list(MessageKind)))
    needs_event = kind is MessageKind.UNDONE
    event = draw(events if needs_event else st.none() | events)
    is_fact = event is not None and kind in (MessageKind.DONE, MessageKind.UNDONE)
    from_step = draw(names | st.just("origin")) if is_fact else draw(names)
    if kind is MessageKind.CANCEL:
        from_step = "origin"
    elif kind in (MessageKind.ABORT, MessageKind.OUTCOME, MessageKind.CANCEL_REQUEST):
        from_step = draw(st.sampled_from(["", from_step]))
    channel = Channel(ChannelKind.EVENT, event.name) if is_fact and event else Channel(ChannelKind.CONTROL, draw(names))
    if kind is MessageKind.OUTCOME:
        channel = draw(st.sampled_from([channel, Channel(ChannelKind.OUTCOME)]))
    notice = draw(notices(kind)) if kind in NOTICES else None
    if notice is not None:
        channel = Channel(ChannelKind.DLQ)
    payload = orjson.dumps(draw(st.dictionaries(texts, st.text(max_size=5).map(lambda s: s.encode("utf-8", "replace").decode()))))
    return Envelope(
        kind=kind,
        saga_id=saga_id_at(draw(st.integers(0, 2**48 - 1)), draw(st.binary(min_size=10, max_size=10))),
        choreography=draw(names),
        definition=draw(st.from_regex(r"[0-9a-f]{32}", fullmatch=True)),
        origin=draw(names),
        sender=draw(names),
        channel=channel,
        from_step=from_step,
        to_step=draw(names | st.just("origin")) if kind is MessageKind.CLEAR else draw(st.just("") | names),
        event=event,
        key=draw(texts.filter(lambda text: len(text.encode()) <= KEY_BYTES_MAX)),
        deadline_ms=draw(st.none() | st.integers(0, 253_402_300_799_999)),
        reason=draw(texts.filter(lambda text: len(text.encode()) <= REASON_BYTES_MAX)),
        cause=draw(st.sampled_from(list(Cause))),
        outcome=draw(st.sampled_from([Outcome.COMPLETED, Outcome.ABORTED] if kind is MessageKind.OUTCOME else list(Outcome))),
        debt=draw(st.booleans()),
        reannounced=draw(st.booleans()),
        payload=payload if is_fact else b"",
        parking=notice,
        traceparent=draw(st.sampled_from(["", TRACEPARENT])),
        sent_ns=draw(st.integers(0, 253_402_300_799_999_999_999)),
    )


@given(envelopes())
def test_every_envelope_comes_back_as_it_was_sent(envelope: Envelope) -> None:
    headers, body = encode(envelope)
    assert decode(envelope.channel, headers, body) == envelope
    assert all(re.fullmatch(r"(ce-[a-z0-9]+|traceparent|tracestate)", name) for name in headers)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert sum(len(name) + len(value) for name, value in headers.items()) <= HEADERS_BYTES_MAX


@given(envelopes(), st.integers(0, 10**18))
def test_a_message_that_is_published_again_has_the_same_id(envelope: Envelope, later_ns: int) -> None:
    again = envelope._replace(sent_ns=later_ns, reannounced=True, traceparent="")
    assert encode(again)[0]["ce-id"] == encode(envelope)[0]["ce-id"]


@given(envelopes(), envelopes())
def test_different_messages_of_one_saga_have_different_ids(one: Envelope, other: Envelope) -> None:
    def identity(e: Envelope) -> tuple[object, ...]:
        receiver = e.to_step or (e.channel.name if e.channel.kind is ChannelKind.CONTROL else "")
        told = (e.parking.attempt, e.parking.round) if e.parking else None
        return e.kind, e.from_step, receiver, e.event, told

    other = other._replace(saga_id=one.saga_id)
    assert (encode(one)[0]["ce-id"] == encode(other)[0]["ce-id"]) == (identity(one) == identity(other))


garbage_names = st.sampled_from([*encode(done())[0], "ce-sagareason", "CE-ID", "ce-sagadebt", "x"]) | st.text(max_size=8)
garbage_values = st.text(max_size=40) | st.sampled_from(
    ["", "%", "1", "true", "step.completed", "saga.started", "/saga/a", str(SAGA)]
)


@given(st.sampled_from(list(ChannelKind)), st.dictionaries(garbage_names, garbage_values), st.binary(max_size=200))
def test_garbage_is_refused_with_a_known_word(kind: ChannelKind, headers: dict[str, str], body: bytes) -> None:
    assert code_of(Channel(kind, "a.b"), headers, body) in set(Fault)


@settings(max_examples=300, deadline=None)
@given(envelopes(), st.dictionaries(garbage_names, garbage_values, max_size=3), st.none() | st.binary(max_size=60))
def test_a_damaged_message_is_decoded_or_refused_and_never_more(
    envelope: Envelope, damage: dict[str, str], body: bytes | None
) -> None:
    headers, sent = encode(envelope)
    code, got = "", None
    try:
        got = decode(envelope.channel, headers | damage, sent if body is None else body)
    except DecodeError as exc:
        code = exc.code
    assert code in set(Fault) if got is None else decode(envelope.channel, *encode(got)) == got


def test_header_names_may_come_in_any_case() -> None:
    headers, body = encode(done())
    assert decode(done().channel, {name.upper(): value for name, value in headers.items()}, body) == done()


def test_unknown_headers_are_ignored() -> None:
    headers, body = encode(done())
    foreign = {"ce-tenant": "7", "X-Thing": "ü\n", "x-thing": "twice", "ce-dataschema": "urn:x"}
    assert decode(done().channel, headers | foreign, body) == done()


def test_a_broken_trace_context_is_dropped_and_does_not_stop_a_saga() -> None:
    headers, body = encode(done())
    got = decode(done().channel, headers | {"traceparent": "nonsense"}, body)
    assert (got.traceparent, got.tracestate) == ("", "")
    assert "traceparent" not in encode(done(traceparent="nonsense"))[0]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ce-specversion": None}, "missing_attribute"),
        ({"ce-specversion": "0.3"}, "spec_version"),
        ({"ce-sagaversion": "2"}, "protocol_version"),
        ({"ce-sagaversion": None}, "missing_attribute"),
        ({"ce-id": None}, "missing_attribute"),
        ({"ce-id": "a\nb"}, "header_value"),
        ({"ce-time": ""}, "missing_attribute"),
        ({"ce-time": "2026-02-30T00:00:00Z"}, "time"),
        ({"ce-time": "2026-01-01T00:00:00+01:00"}, "time"),
        ({"ce-time": "2026-01-01T00:00:00.1234567890Z"}, "time"),
        ({"ce-time": "2026-01-01T00:00:00.\u0661Z"}, "time"),
        ({"ce-time": "1969-12-31T23:59:59Z"}, "time"),
        ({"ce-sagadeadline": "soon"}, "time"),
        ({"ce-sagaid": "not-a-uuid"}, "saga_id"),
        ({"ce-sagaid": str(SAGA).upper()}, "saga_id"),
        ({"ce-sagaid": str(uuid4())}, "saga_id_version"),
        ({"ce-subject": str(uuid4())}, "subject_mismatch"),
        ({"ce-sagamsg": "step.exploded"}, "unknown_message"),
        ({"ce-sagamsg": "step.skipped"}, "type_mismatch"),
        ({"ce-sagamsg": "saga.started"}, "type_mismatch"),
        ({"ce-type": "payment.refunded"}, "type_mismatch"),
        ({"ce-sagaevent": "payment.refunded"}, "type_mismatch"),
        ({"ce-sagaevent": "Payment"}, "name"),
        ({"ce-sagaevent": "a." * 100 + "b"}, "name"),
        ({"ce-sagaeventversion": None}, "missing_attribute"),
        ({"ce-sagaeventversion": "0"}, "number"),
        ({"ce-sagaeventversion": "2147483648"}, "number"),
        ({"ce-sagaeventversion": "\u0663"}, "number"),
        ({"ce-sagafrom": None}, "missing_attribute"),
        ({"ce-sagafrom": "origin"}, "type_mismatch"),
        ({"ce-sagafrom": "step\x00"}, "name"),
        ({"ce-saganame": "n" * 65}, "name"),
        ({"ce-sagaorigin": "origin"}, "name"),
        ({"ce-source": "/saga/"}, "name"),
        ({"ce-source": "payment"}, "source"),
        ({"ce-sagadef": "xyz"}, "definition"),
        ({"ce-sagadebt": "yes"}, "flag"),
        ({"ce-sagaagain": "1"}, "flag"),
        ({"ce-sagacause": "boredom"}, "cause"),
        ({"ce-sagaoutcome": "draw"}, "outcome"),
        ({"ce-sagakey": "%zz"}, "percent_encoding"),
        ({"ce-sagakey": "%ff"}, "percent_encoding"),
        ({"ce-sagakey": "k" * (KEY_BYTES_MAX + 1)}, "key_too_long"),
        ({"ce-sagakey": "ä"}, "header_value"),
        ({"ce-sagareason": "r" * (REASON_BYTES_MAX + 1)}, "reason_too_long"),
        ({"ce-datacontenttype": "text/xml"}, "content_type"),
        ({"ce-datacontenttype": None}, "missing_attribute"),
        ({"CE-Id": "again"}, "header_duplicated"),
        ({"Traceparent": "again"}, "header_duplicated"),
        ({"x\r\ny": "1"}, "header_name"),
        ({"x": "v" * HEADERS_BYTES_MAX}, "headers_too_large"),
    ],
)
def test_each_wrong_header_has_a_word_of_its_own(changes: Mapping[str, str | None], code: str) -> None:
    assert code_with(changes) == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ce-sagaattempt": None}, "missing_attribute"),
        ({"ce-sagaattempt": "-1"}, "number"),
        ({"ce-sagaround": "2147483648"}, "number"),
        ({"ce-sagaoperator": None}, "missing_attribute"),
        ({"ce-sagaoperator": "o" * (OPERATOR_BYTES_MAX + 1)}, "reason_too_long"),
        ({"ce-sagaerror": "%ff"}, "percent_encoding"),
        ({"ce-sagaresolution": None}, "missing_attribute"),
        ({"ce-sagaresolution": "shrug"}, "resolution"),
    ],
)
def test_each_wrong_header_of_a_notice_has_a_word(changes: Mapping[str, str | None], code: str) -> None:
    assert code_with(changes, notice(Parking(attempt=5, round=1, operator="ana", resolution="retry"))) == code


def notice(told: Parking) -> Envelope:
    return control(MessageKind.RESOLVED, parking=told, channel=Channel(ChannelKind.DLQ))


def test_a_notice_is_for_the_dead_letter_channel_only_and_each_round_has_an_id_of_its_own() -> None:
    first, second = (encode(notice(Parking(attempt=5, round=n, operator="ana", resolution="retry")))[0] for n in (1, 2))
    assert first["ce-id"] != second["ce-id"]
    assert code_of(Channel(ChannelKind.CONTROL, "stock"), first, b"") == "channel_mismatch"


def test_a_body_over_the_limit_is_refused_before_anything_is_read() -> None:
    assert code_of(done().channel, {}, b"x" * (BODY_BYTES_MAX + 1)) == "body_too_large"


def test_a_body_of_exactly_the_limit_passes() -> None:
    payload = b'{"a":"' + b"x" * (BODY_BYTES_MAX - 8) + b'"}'
    assert decode(done().channel, *encode(done(payload=payload))).payload == payload


def test_a_message_that_is_no_event_has_no_body() -> None:
    assert code_with({}, control(MessageKind.ABORT), b"{}") == "unexpected_payload"
    assert code_with({}, body=b"") == "invalid_json"


def test_an_outcome_that_contradicts_its_type_is_refused() -> None:
    outcome = control(MessageKind.OUTCOME, outcome=Outcome.ABORTED, cause=Cause.TIMED_OUT, channel=Channel(ChannelKind.OUTCOME))
    assert encode(outcome)[0]["ce-type"] == "saga.timed_out"
    assert code_with({"ce-sagacause": "cancelled"}, outcome) == "type_mismatch"
    assert code_with({"ce-sagaoutcome": None}, outcome) == "missing_attribute"


def test_a_channel_carries_only_its_own_messages() -> None:
    headers, body = encode(done())
    assert code_of(Channel(ChannelKind.EVENT, "order.created"), headers, body) == "channel_mismatch"
    assert code_of(Channel(ChannelKind.OUTCOME), headers, body) == "channel_mismatch"
    assert decode(Channel(ChannelKind.DLQ), headers, body).event == done().event


@pytest.mark.parametrize(
    ("envelope", "type_", "word"),
    [
        (done(), "payment.charged", "step.completed"),
        (done(from_step="origin"), "payment.charged", "saga.started"),
        (done(kind=MessageKind.UNDONE), "payment.charged", "compensation.event"),
        (control(MessageKind.DONE, to_step="origin"), "step.completed", "step.completed"),
        (control(MessageKind.SKIP), "step.skipped", "step.skipped"),
        (control(MessageKind.ABORT), "step.failed", "step.failed"),
        (control(MessageKind.CLEAR, to_step="origin"), "compensation.completed", "compensation.completed"),
        (control(MessageKind.CANCEL, from_step="origin"), "saga.cancel_requested", "saga.cancel_requested"),
        (control(MessageKind.CANCEL_REQUEST, from_step=""), "saga.cancel_requested", "saga.cancel_requested"),
        (control(MessageKind.OUTCOME, outcome=Outcome.COMPLETED, cause=Cause.CANCELLED), "saga.completed", "saga.completed"),
        (control(MessageKind.OUTCOME, outcome=Outcome.ABORTED, cause=Cause.REFUSED), "saga.failed", "saga.failed"),
        (control(MessageKind.OUTCOME, outcome=Outcome.ABORTED, cause=Cause.CANCELLED), "saga.cancelled", "saga.cancelled"),
    ],
)
def test_each_message_has_the_words_of_the_table(envelope: Envelope, type_: str, word: str) -> None:
    headers, body = encode(envelope)
    assert (headers["ce-type"], headers["ce-sagamsg"]) == (type_, word)
    assert decode(envelope.channel, headers, body) == envelope


def test_a_long_reason_is_cut_at_a_whole_character() -> None:
    headers, body = encode(control(MessageKind.ABORT, reason="ä" * 2_000, cause=Cause.REFUSED))
    assert decode(Channel(ChannelKind.CONTROL, "stock"), headers, body).reason == "ä" * (REASON_BYTES_MAX // 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"payload": b""},
        {"definition": "short"},
        {"choreography": "No"},
        {"sent_ns": -1},
        {"deadline_ms": 2**60},
        {"key": "k" * (KEY_BYTES_MAX + 1)},
        {"key": "\ud800"},
        {"channel": Channel(ChannelKind.EVENT, "order.created")},
        {"kind": MessageKind.ABORT},
        {"kind": MessageKind.CANCEL, "payload": b""},
    ],
)
def test_an_envelope_the_protocol_does_not_know_is_never_published(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (each case has a message of its own)
        encode(done(**wrong))


def test_a_payload_over_the_limit_is_never_published() -> None:
    with pytest.raises(ResultTooLarge, match="send a reference"):
        encode(done(payload=b"x" * (BODY_BYTES_MAX + 1)))


def test_a_key_is_checked_before_a_saga_starts() -> None:
    assert checked_key("ORDER-7712") == "ORDER-7712"
    with pytest.raises(ValueError, match="more than 512"):
        checked_key("ä" * 257)


def test_the_saga_id_is_the_subject_and_carries_the_start() -> None:
    headers, _ = encode(done())
    assert UUID(headers["ce-subject"]) == SAGA
    assert headers["ce-time"] == "2026-09-21T14:13:20.123456789Z"
    assert headers["ce-sagakey"] == "ORDER%207712/%C3%A4"
