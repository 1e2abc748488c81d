"""The terminal's parts that need no terminal: text of strangers, files of members."""

from __future__ import annotations

import io

import click
import pytest

from chatcluster.app.commands.members import batches
from chatcluster.app.terminal.rendering import _wrap
from chatcluster.app.terminal.text import clean


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain, grüße, 👍", "plain, grüße, 👍"),
        ("\x1b[31mred\x07", "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"),
        ("a\u202eb\u2066c", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"),
        ("\x9b2J", "\N{REPLACEMENT CHARACTER}2J"),
        ("two\nlines\there", "two lines here"),
    ],
)
def test_what_strangers_write_is_shown_never_obeyed(said: str, shown: str) -> None:
    assert clean(said) == shown


def test_lines_of_a_message_stay_apart() -> None:
    assert clean("a\nb\x1b", lines=True) == "a\nb\N{REPLACEMENT CHARACTER}"
    assert _wrap("one\ntwo", 20, 60) == "one\n" + " " * 11 + "two"
    lines = _wrap("word " * 30, 20, 60).split("\n")
    assert len(lines) > 2
    assert all(set(line.split()) == {"word"} and len(line) <= 60 for line in lines)
    assert _wrap("", 20, 60) == ""


FILE = b"# people\nann\n\n bob \nann\ncarl\r\ndora\n"


def test_members_of_a_file_come_in_batches_with_their_place() -> None:
    found = list(batches(io.BytesIO(FILE), 0, 2))
    assert [users for users, _ in found] == [["ann", "bob"], ["ann", "carl"], ["dora"]]
    assert found[-1][1] == len(FILE)


def test_an_import_goes_on_where_it_was_broken_off() -> None:
    (_, place), *rest = batches(io.BytesIO(FILE), 0, 2)
    assert list(batches(io.BytesIO(FILE), place, 2)) == rest
    assert list(batches(io.BytesIO(FILE), len(FILE), 2)) == []


@pytest.mark.parametrize("line", [b"x" * 2000, b"x" * 129, b"\xff\xfe", b"a\x00b"])
def test_a_line_that_is_no_user_is_named(line: bytes) -> None:
    with pytest.raises(click.ClickException, match="byte 4"):
        list(batches(io.BytesIO(b"ann\n" + line + b"\n"), 0, 10))
