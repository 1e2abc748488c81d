"""Where a device keeps what it must not forget: the last mark (cursors and pending ids)."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Protocol

import msgspec


class Saved(msgspec.Struct, frozen=True):
    """A mark: cursors of the inbox and of each followed large channel, and ids not yet proven then.

    ``newest``: the greatest message id told; where history is read on from when a cursor is no good any more.
    """

    inbox: str | None = None
    channels: dict[str, str] = {}
    pending: list[str] = []
    newest: str | None = None


class CursorStore(Protocol):
    """One device's place to keep its mark. Calls come one at a time."""

    async def load(self) -> Saved | None:
        """What was saved last; None on a new device."""
        ...

    async def save(self, saved: Saved) -> None:
        """Replace it, whole or not at all."""
        ...


class MemoryCursors:
    """Forgets with the process: the next start is a new device's."""

    def __init__(self) -> None:
        self._saved: Saved | None = None

    async def load(self) -> Saved | None:
        return self._saved

    async def save(self, saved: Saved) -> None:
        self._saved = saved


class FileCursors:
    """A JSON file, replaced atomically: a crash leaves the old or the new one, never a half."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._writing = threading.Lock()  # a cancelled save goes on in its thread: the next one waits for it

    async def load(self) -> Saved | None:
        """None when there is no file. Raises ``ValueError`` when it holds something else: starting as a
        new device over it would silently skip what was missed.
        """
        return await asyncio.to_thread(self._load)

    async def save(self, saved: Saved) -> None:
        await asyncio.to_thread(self._save, saved)

    def _load(self) -> Saved | None:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return msgspec.json.decode(raw, type=Saved)
        except msgspec.DecodeError as error:
            raise ValueError(f"{self._path} does not hold saved cursors: {error}") from error

    def _save(self, saved: Saved) -> None:
        with self._writing:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_name(self._path.name + ".partial")
            with partial.open("wb") as file:
                file.write(msgspec.json.encode(saved))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self._path)
