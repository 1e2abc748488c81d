from __future__ import annotations

import stat
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner

from chatcluster.app.cli import main
from chatcluster.app.commands.token import duration
from chatcluster.app.tokens import MissingKey, ensure_secrets, load_key


def test_secrets_are_made_once_and_are_the_owners_alone(tmp_path: Path) -> None:
    first = ensure_secrets(tmp_path / "data")

    assert ensure_secrets(tmp_path / "data") == first
    assert load_key(tmp_path / "data") == first[0]
    for name in ("signing.key", "api.key"):
        assert stat.S_IMODE((tmp_path / "data" / name).stat().st_mode) == 0o600


def test_mint_prints_the_token_alone(tmp_path: Path) -> None:
    key, _ = ensure_secrets(tmp_path)
    result = CliRunner().invoke(
        main, [*["token", "mint", "--user", "ada", "--tenant", "acme", "--ttl", "15m", "--data"], str(tmp_path)]
    )

    assert result.exit_code == 0
    claims = jwt.decode(result.output.strip(), key, algorithms=["HS256"])
    assert (claims["sub"], claims["tid"], claims["exp"] - claims["iat"]) == ("ada", "acme", 900)


@pytest.mark.parametrize(
    "arguments",
    [["--user", ""], ["--user", "a\nb"], ["--user", "ada", "--tenant", "a/b"], ["--user", "ada", "--ttl", "soon"], []],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: list[str]) -> None:
    ensure_secrets(tmp_path)
    result = CliRunner().invoke(main, ["token", "mint", "--data", str(tmp_path), *arguments])

    assert result.exit_code == 2
    assert "Error" in result.output


def test_a_missing_or_bad_key_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(MissingKey, match="chatcluster dev"):
        load_key(tmp_path)
    (tmp_path / "signing.key").write_text("abcd")
    with pytest.raises(MissingKey, match="too short"):
        load_key(tmp_path)
    (tmp_path / "signing.key").write_text("not hex")
    with pytest.raises(MissingKey, match="hexadecimal"):
        load_key(tmp_path)


def test_durations() -> None:
    assert [duration(text) for text in ("90", "90s", "15m", "1h", "30d")] == [90, 90, 900, 3600, 2_592_000]
