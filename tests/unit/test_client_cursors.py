"""Cursors on disk, tokens' ends, addresses."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from chatcluster.client.client import endpoint
from chatcluster.client.credentials import expiry
from chatcluster.client.cursors import FileCursors, Saved


async def test_cursors_survive_in_a_file(tmp_path: Path) -> None:
    store = FileCursors(tmp_path / "new" / "cursors.json")
    assert await store.load() is None
    saved = Saved("i", {"big": "c"}, ["1", "2"], "9")
    await store.save(Saved("older"))
    await store.save(saved)
    assert await FileCursors(tmp_path / "new" / "cursors.json").load() == saved
    assert os.listdir(tmp_path / "new") == ["cursors.json"]


async def test_a_crash_while_saving_leaves_the_old_cursors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cursors.json"
    store = FileCursors(path)
    await store.save(Saved("old"))

    def crash(*_: object) -> None:
        raise OSError("power lost")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power lost"):
        await store.save(Saved("new"))
    assert await FileCursors(path).load() == Saved("old")


async def test_a_file_of_something_else_is_not_taken_for_a_new_device(tmp_path: Path) -> None:
    path = tmp_path / "cursors.json"
    path.write_text("half a")
    with pytest.raises(ValueError, match="does not hold saved cursors"):
        await FileCursors(path).load()


def jwt(claims: bytes) -> str:
    return f"e30.{urlsafe_b64encode(claims).rstrip(b'=').decode()}.signature"


def test_the_end_of_a_token() -> None:
    assert expiry(jwt(b'{"sub":"ann","exp":1790000000}')) == 1_790_000_000
    assert expiry(jwt(b'{"sub":"ann"}')) is None
    for opaque in ("opaque", "a.b.c", jwt(b"[1]"), jwt(b'{"exp":"soon"}')):
        assert expiry(opaque) is None


def test_addresses() -> None:
    assert endpoint("ws://127.0.0.1:8080") == "ws://127.0.0.1:8080/v1/connect"
    assert endpoint("wss://chat.example/") == "wss://chat.example/v1/connect"
    assert endpoint("wss://chat.example/a/b") == "wss://chat.example/a/b"
    for wrong in ("http://chat.example", "chat.example", ""):
        with pytest.raises(ValueError, match="WebSocket address"):
            endpoint(wrong)
