from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from chatcluster.app.settings import BadSettings, convert, read_sections


class Example(msgspec.Struct, frozen=True):
    name: str
    limit: int = 5
    ratio: float = 0.5
    open: bool = False
    origins: tuple[str, ...] = ()
    bounds: tuple[int, int] = (1, 2)
    listed: frozenset[str] | None = None


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[example]\nname = "file"\nlimit = 7\n')

    sections = read_sections(config, {"CHATCLUSTER_EXAMPLE__LIMIT": "9", "PATH": "/bin"})

    assert convert("example", sections["example"], Example) == Example(name="file", limit=9)


def test_text_becomes_what_the_field_is() -> None:
    raw = {"name": "n", "limit": "3", "ratio": "0.25", "open": "true", "origins": "https://a, https://b"}

    assert convert("example", raw, Example) == Example("n", 3, 0.25, True, ("https://a", "https://b"))


def test_lists_that_may_be_none_and_pairs_come_from_text_too() -> None:
    raw = {"name": "n", "bounds": "3, 4", "listed": "https://a,https://b"}

    assert convert("example", raw, Example) == Example("n", bounds=(3, 4), listed=frozenset({"https://a", "https://b"}))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"name": "n", "limits": 3}, r"example\.limits = 3: no such setting; allowed: bounds, limit, listed, name"),
        ({"name": "n", "limit": "many"}, r"example\.limit = 'many': Expected `int`"),
        ({"name": "n", "limit": -1}, r"example\.limit = -1: allowed: a number from 0 on"),
        ({"name": "n", "ratio": "nan"}, r"example\.ratio = 'nan': allowed: a number from 0 on"),
        ({"name": "n", "ratio": "inf"}, r"example\.ratio = 'inf': allowed: a number from 0 on"),
        ({}, r"example\.name is missing"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(raw: dict[str, object], said: str) -> None:
    with pytest.raises(BadSettings, match=said):
        convert("example", raw, Example)


@pytest.mark.parametrize("name", ["CHATCLUSTER_LIMIT", "CHATCLUSTER_EXAMPLE__"])
def test_an_environment_variable_without_section_or_key_stops_the_start(name: str) -> None:
    with pytest.raises(BadSettings, match=name):
        read_sections(None, {name: "1"})


def test_a_missing_or_broken_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="does not exist"):
        read_sections(tmp_path / "none.toml", {})
    broken = tmp_path / "broken.toml"
    broken.write_text("limit = [")
    with pytest.raises(BadSettings, match="not TOML"):
        read_sections(broken, {})
    flat = tmp_path / "flat.toml"
    flat.write_text("limit = 5")
    with pytest.raises(BadSettings, match="sections"):
        read_sections(flat, {})


def test_names_of_the_command_line_and_of_the_tests_are_no_settings() -> None:
    environ = {"CHATCLUSTER_API_KEY": "x", "CHATCLUSTER_CACHE": "y", "CHATCLUSTER_TEST_REDIS": "z"}
    assert read_sections(None, environ) == {}
