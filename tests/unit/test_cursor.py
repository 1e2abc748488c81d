from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcluster.core.codes import Refused
from chatcluster.core.cursor import MAX_CURSOR, MAX_OFFSET, START, Cursor, decode_cursor, encode_cursor
from chatcluster.core.ids import MAX_ID


@given(st.text(max_size=16), st.integers(START, MAX_OFFSET), st.integers(0, MAX_ID))
def test_a_cursor_comes_back_as_it_was(epoch: str, offset: int, last: int) -> None:
    cursor = Cursor(epoch, offset, last)

    assert decode_cursor(encode_cursor(cursor, "u:t/a"), "u:t/a") == cursor


def test_a_cursor_of_another_timeline_is_refused() -> None:
    text = encode_cursor(Cursor("e", 5, 7), "u:t/ada")
    for other in ("u:t/grace", "c:t/ada", "u:s/ada"):
        with pytest.raises(Refused) as refused:
            decode_cursor(text, other, field="resume.inbox")
        assert (refused.value.code, refused.value.field) == ("bad_cursor", "resume.inbox")


@given(st.text(max_size=MAX_CURSOR + 10))
def test_no_text_brings_another_exception(text: str) -> None:
    with pytest.raises(Refused, match="bad_cursor"):
        decode_cursor(text, "u:t/ada")


@given(st.data())
def test_a_damaged_cursor_is_refused_or_means_the_same(data: st.DataObject) -> None:
    cursor = Cursor("epoch", 123456, 1577 << 50)
    text = encode_cursor(cursor, "u:t/ada")
    at = data.draw(st.integers(0, len(text) - 2))
    other = data.draw(st.sampled_from("ABCxyz019_-").filter(lambda char: char != text[at]))

    # another encoding of the same number is no damage
    with suppress(Refused):
        assert decode_cursor(text[:at] + other + text[at + 1 :], "u:t/ada") == cursor


def test_a_negative_offset_below_the_start_is_refused() -> None:
    with pytest.raises(Refused):
        decode_cursor(encode_cursor(Cursor("e", START - 1, 0), "u:t/ada"), "u:t/ada")


@pytest.mark.parametrize("cursor", [Cursor("e", MAX_OFFSET + 1, 0), Cursor("e", 0, MAX_ID + 1), Cursor("e", 0, -1)])
def test_a_cursor_that_somebody_made_up_never_reaches_a_store(cursor: Cursor) -> None:
    """A store takes 63 bits; the check sum is right, since anybody can reckon it."""
    with pytest.raises(Refused, match="bad_cursor"):
        decode_cursor(encode_cursor(cursor, "u:t/ada"), "u:t/ada")
