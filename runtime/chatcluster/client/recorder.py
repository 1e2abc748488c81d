"""Records what clients send and see as a history for ``chatcluster audit``.

Called with the frames as they pass, so that a client needs two lines to be recorded. Knows no socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

from msgspec import UNSET

from chatcluster.core.frames import (
    Ack,
    ClientFrame,
    Delete,
    Edit,
    ErrorFrame,
    Event,
    Mark,
    React,
    ReadUpTo,
    Reply,
    Send,
    ServerFrame,
    WireMessage,
)
from chatcluster.core.history import (
    Acked,
    Closed,
    Failed,
    Final,
    FinalMessage,
    Finished,
    Got,
    Joined,
    Left,
    Marked,
    Opened,
    ReadAt,
    Record,
    Sent,
    Started,
    Truncated,
    Withdrawn,
    body_digest,
    encode,
)


def wall_ms() -> int:
    """ms since 1970."""
    return time.time_ns() // 1_000_000


class Recorder:
    """One history file, for any number of clients of one process and one thread.

    Buffers ``buffer`` bytes at most, then writes them (to the page cache, some 0.1 ms). Over ``limit`` bytes
    it stops with a ``truncated`` record: a load generator must not fill the disk. A failed write is raised
    by ``close``, not in the middle of the clients.
    """

    def __init__(
        self, path: Path | str, *, limit: int = 4 << 30, buffer: int = 256 << 10, now: Callable[[], int] = wall_ms
    ) -> None:
        self.dropped = 0
        """Records not written, over the bound or after a failed write."""
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        self._limit = limit
        self._bound = buffer
        self._buffer = bytearray()
        self._written = 0
        self._full = False
        self._error: OSError | None = None
        self._now = now
        self._observers: list[Observer] = []

    def observer(self, name: str, *, user: str, tenant: str = "default") -> Observer:
        """The recording of one client. ``name``: unique over all files of an audit."""
        observer = Observer(self.write, self._now, name, user=user, tenant=tenant)
        self._observers.append(observer)
        return observer

    def write(self, record: Record) -> None:
        """Add one record."""
        if self._full:
            self.dropped += 1
            return
        line = encode(record)
        if self._written + len(self._buffer) + len(line) + 1 > self._limit:
            self._full = True
            self.dropped += 1
            line = encode(Truncated(record.client, record.at))
        self._buffer += line
        self._buffer += b"\n"
        if len(self._buffer) >= self._bound:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        if self._buffer and self._error is None:
            try:
                view = memoryview(self._buffer)
                while view:
                    count = self._file.write(view)
                    assert count is not None
                    self._written += count
                    view = view[count:]
                view.release()
            except OSError as error:
                self._error, self._full = error, True
        self._buffer = bytearray()

    def close(self) -> None:
        """Finish every client's recording, write the rest. Raises ``OSError`` when any of it was not written."""
        if self._file.closed:
            return
        for observer in self._observers:
            observer.finish()
        self.flush()
        self._file.close()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_MAX_READS = 1000


class Observer:
    """One client's recording: call ``opened``, ``out`` and ``got`` for each frame, ``closed``."""

    __slots__ = ("_conn", "_finished", "_name", "_now", "_reads", "_user", "_write")

    def __init__(
        self, write: Callable[[Record], None], now: Callable[[], int], name: str, *, user: str, tenant: str
    ) -> None:
        self._write = write
        self._now = now
        self._name = name
        self._user = user
        self._conn = 0
        self._finished = False
        self._reads: dict[str, str] = {}  # rid of a read -> channel, until answered
        write(Started(name, now(), tenant, user))

    def opened(self, *, resumed: bool = False) -> None:
        """A connection was welcomed."""
        self._conn += 1
        self._write(Opened(self._name, self._now(), self._conn, resumed))

    def closed(self, code: int = 0, reason: str = "") -> None:
        """The connection ended."""
        self._write(Closed(self._name, self._now(), self._conn, code, reason))

    def joined(self, channel: str, *, after: str = "0", held: Iterable[str] = ()) -> None:
        """Everything of the channel above ``after`` is owed from here on (see ``history.Joined``)."""
        self._write(Joined(self._name, self._now(), channel, after, list(held)))

    def left(self, channel: str) -> None:
        """Nothing more of the channel is owed."""
        self._write(Left(self._name, self._now(), channel))

    def out(self, frame: ClientFrame) -> None:
        """A frame about to be sent: before the write, since afterwards it may have happened already."""
        name, now, conn = self._name, self._now(), self._conn
        if isinstance(frame, Send):
            digest = body_digest(frame.body, frame.data, frame.reply_to)
            self._write(
                Sent(
                    name,
                    now,
                    conn,
                    "send",
                    frame.channel,
                    frame.client_id,
                    frame.rid,
                    digest,
                    frame.after or "",
                    retry=frame.retry,
                )
            )
        elif isinstance(frame, Edit):
            # An edit has no reply_to of its own: the message keeps its first one, which the digest leaves out.
            digest = body_digest(frame.body, frame.data)
            self._change(frame, "edit", digest)
        elif isinstance(frame, Delete):
            self._change(frame, "delete", "")
        elif isinstance(frame, React):
            self._change(frame, "react", body_digest(frame.emoji, {"remove": frame.remove}))
        elif isinstance(frame, ReadUpTo) and frame.rid is not None:
            if len(self._reads) >= _MAX_READS:
                del self._reads[next(iter(self._reads))]
            self._reads[frame.rid] = frame.channel

    def _change(self, frame: Edit | Delete | React, op: str, digest: str) -> None:
        assert op in ("edit", "delete", "react")
        self._write(
            Sent(
                self._name,
                self._now(),
                self._conn,
                op,  # type: ignore[arg-type]
                frame.channel,
                frame.client_id,
                frame.rid,
                digest,
                target=frame.id,
                retry=frame.retry,
            )
        )

    def got(self, frame: ServerFrame) -> None:
        """A frame that came, before the client acts on it."""
        name, now = self._name, self._now()
        if isinstance(frame, Event):
            self._event(frame, now)
        elif isinstance(frame, Ack):
            self._write(Acked(name, now, frame.rid, frame.channel, frame.id, frame.duplicate))
        elif isinstance(frame, ErrorFrame):
            if frame.rid is not UNSET:
                self._reads.pop(frame.rid, None)
                self._write(Failed(name, now, frame.rid, frame.code))
        elif isinstance(frame, Mark):
            self._write(Marked(name, now, self._conn, frame.pending))
        elif isinstance(frame, Reply):
            if frame.events is not UNSET:
                for event in frame.events:
                    self._event(event, now)
            channel = self._reads.pop(frame.rid, None)
            if channel is not None and isinstance(frame.read, str):
                self._write(ReadAt(name, now, channel, frame.read))

    def _event(self, event: Event, now: int) -> None:
        if event.kind == "message" and event.message is not UNSET:
            message = event.message
            digest = _digest(message)
            self._write(
                Got(
                    self._name,
                    now,
                    self._conn,
                    event.channel,
                    event.id,
                    message.sender,
                    message.client_id,
                    digest,
                    event.live,
                )
            )
        elif event.kind == "retracted" and event.message_id is not UNSET:
            of = "" if event.of is UNSET else event.of
            self._write(Withdrawn(self._name, now, event.channel, event.message_id, of))
        elif event.kind == "read" and event.user == self._user and event.message_id is not UNSET:
            self._write(ReadAt(self._name, now, event.channel, event.message_id, live=True))

    def final(self, channel: str, messages: Sequence[WireMessage], *, complete: bool = True) -> None:
        """The channel's history after everything healed, in the order it came."""
        shown = [
            FinalMessage(m.id, m.sender, m.client_id, "" if m.deleted is True else _digest(m), m.deleted is True)
            for m in messages
        ]
        self._write(Final(self._name, self._now(), channel, shown, complete))

    def finish(self) -> None:
        """The recording ends in order. Idempotent; ``Recorder.close`` does it."""
        if not self._finished:
            self._finished = True
            self._write(Finished(self._name, self._now()))


def _digest(message: WireMessage) -> str:
    data = None if message.data is UNSET else message.data
    # An edited message is compared with its edit, which has no reply_to.
    reply_to = None if message.reply_to is UNSET or message.edited is not UNSET else message.reply_to
    return body_digest(message.body, data, reply_to)
