"""API keys from a file: checked whole, never quoted, found by the header alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatcluster.app.api_keys import SCOPES, ApiKeys, Grant
from chatcluster.app.settings import BadSettings

ONE, TWO = "1" * 32, "2" * 32


def load(tmp_path: Path, text: str) -> ApiKeys:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return ApiKeys.load(path)


def test_a_file_grants_tenants_and_scopes(tmp_path: Path) -> None:
    keys = load(
        tmp_path,
        f'[[keys]]\nkey = "{ONE}"\n'
        f'[[keys]]\nname = "bot"\nkey = "{TWO}"\ntenant = "acme"\nscopes = ["messages:write"]\n',
    )
    assert keys.find(f"Bearer {ONE}") == Grant("default", SCOPES)
    assert keys.find(f"bearer {TWO}") == Grant("acme", frozenset({"messages:write"}))


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", ONE, f"Basic {ONE}", f"Bearer {ONE}1", "Bearer \udcff"]
)
def test_anything_else_finds_nothing(header: str | None) -> None:
    assert ApiKeys.single(ONE).find(header) is None


@pytest.mark.parametrize(
    "text",
    [
        'keys = "',
        "",
        '[[keys]]\nkey = "short-secret"\n',
        f'[[keys]]\nkey = "{ONE}"\ntenant = "a/b"\n',
        f'[[keys]]\nkey = "{ONE}"\nscopes = ["everything"]\n',
        f'[[keys]]\nkey = "{ONE}"\nscope = []\n',
    ],
)
def test_a_wrong_file_stops_the_start_without_showing_a_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSettings, match=r"keys\.toml") as raised:
        load(tmp_path, text)
    assert ONE not in str(raised.value)
    assert "short-secret" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="does not exist"):
        ApiKeys.load(tmp_path / "nothing.toml")


def test_no_key_is_held_in_memory_as_it_is() -> None:
    assert ONE not in repr(vars(ApiKeys.single(ONE)))
