"""API keys from a file: checked whole, never quoted, found by the header alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatcluster.app.api_keys import SCOPES, ApiKeys, Grant, load_keys
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


@pytest.mark.parametrize("content", [b"short-secret\n", b"\xff" * 40, b""])
def test_a_file_that_is_no_key_stops_the_start_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "api.key"
    file.write_bytes(content)
    with pytest.raises(BadSettings, match=r"api\.keys_file") as raised:
        load_keys(str(file))
    assert "short-secret" not in str(raised.value)


def test_a_file_may_be_one_key_alone(tmp_path: Path) -> None:
    file = tmp_path / "api.key"
    file.write_text(ONE + "\n")
    keys = load_keys(str(file))
    assert keys is not None
    assert keys.find(f"Bearer {ONE}") == Grant("default", SCOPES)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="does not exist"):
        ApiKeys.load(tmp_path / "nothing.toml")


def test_no_key_is_held_in_memory_as_it_is() -> None:
    assert ONE not in repr(vars(ApiKeys.single(ONE)))
