"""The token of a pending step: whole, or refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_choreo.codec.tokens import Token, read_token, write_token

tokens = st.builds(
    Token,
    st.uuids(),
    st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    st.integers(0, 255),
    st.integers(0, 2**31 - 1),
)


@given(tokens)
def test_a_token_comes_back_as_it_was_given_and_may_stand_in_a_url(token: Token) -> None:
    text = write_token(token)
    assert read_token(text) == token
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,80}", text)


@given(tokens, st.data())
def test_a_token_with_one_character_changed_or_cut_off_is_refused(token: Token, data: st.DataObject) -> None:
    text = write_token(token)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("AZaz09-_.").filter(lambda c: c != text[at]))
    for wrong in (text[:at] + other + text[at + 1 :], text[:at]):
        with pytest.raises(ValueError, match="no token of a pending step"):
            read_token(wrong)


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    for wrong in (text, "st1." + text):
        with pytest.raises(ValueError, match="no token of a pending step"):
            read_token(wrong)
