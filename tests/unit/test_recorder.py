"""The recorder writes what the checker reads: bounded, whole lines, errors at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatcluster.client.recorder import Recorder
from chatcluster.core.frames import Ack, Cursors, ErrorFrame, Event, Mark, Reply, Send, WireMessage
from chatcluster.core.history import (
    Acked,
    BadHistory,
    Closed,
    Failed,
    Final,
    Finished,
    Got,
    Joined,
    Marked,
    Opened,
    Record,
    Sent,
    Started,
    Truncated,
    body_digest,
    read,
)

MESSAGE = WireMessage("10", "c", "ada", "m1", "2026-01-01T00:00:00.000Z", "hi", {"n": 1})


def records(path: Path) -> list[Record]:
    with path.open("rb") as lines:
        return list(read(lines))


def test_a_clients_story_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ada.jsonl"
    with Recorder(path, now=lambda: 5) as recorder:
        ada = recorder.observer("ada-1", user="ada", tenant="t")
        ada.opened()
        ada.joined("c", after="9", held=["8"])
        ada.out(Send("r1", "c", "m1", "hi", {"n": 1}, after="9", retry=True))
        ada.got(Ack("r1", "c", "10", "", True))
        ada.got(ErrorFrame("overloaded", "", True, "r2"))
        ada.got(Event("inbox", "10", "c", "message", True, message=MESSAGE))
        ada.got(Reply("r3", events=[Event("inbox", "10", "c", "message", False, message=MESSAGE)], cursors=Cursors()))
        ada.got(Mark(["10"], "cursor"))
        ada.closed(1012, "restart")
        ada.final("c", [MESSAGE])
    digest = body_digest("hi", {"n": 1})
    story = records(path)
    assert [type(record) for record in story] == [
        Started, Opened, Joined, Sent, Acked, Failed, Got, Got, Marked, Closed, Final, Finished,
    ]  # fmt: skip
    assert story[3] == Sent("ada-1", 5, 1, "send", "c", "m1", "r1", digest, "9", "", True)
    assert story[6] == Got("ada-1", 5, 1, "c", "10", "ada", "m1", digest, True)
    final = story[10]
    assert isinstance(final, Final)
    assert final.messages[0].digest == digest
    for line in path.read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    "other",
    [("hi!", {"n": 1}, None), ("hi", {"n": 2}, None), ("hi", None, None), ("hi", {"n": 1}, "9")],
)
def test_digest_tells_contents_apart(other: tuple[str, dict[str, int] | None, str | None]) -> None:
    assert body_digest(*other) != body_digest("hi", {"n": 1})
    assert body_digest(*other) == body_digest(*other)


def test_buffer_is_written_when_it_is_full_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    recorder = Recorder(path, buffer=1_000)
    ada = recorder.observer("ada", user="ada")
    assert path.stat().st_size == 0
    for _ in range(100):
        ada.opened()
    assert path.stat().st_size > 1_000
    assert path.read_bytes().endswith(b"\n")
    recorder.close()


def test_over_its_bound_it_stops_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    with Recorder(path, limit=2_000) as recorder:
        ada = recorder.observer("ada", user="ada")
        for _ in range(100):
            ada.opened()
    assert path.stat().st_size < 2_100
    story = records(path)
    assert isinstance(story[-1], Truncated)
    assert len(story) - 1 + recorder.dropped == 102  # started, 100 opened, finished


def test_a_failed_write_is_raised_at_the_end(tmp_path: Path) -> None:
    recorder = Recorder("/dev/full", buffer=10)
    ada = recorder.observer("ada", user="ada")
    ada.opened()
    assert recorder.dropped > 0
    with pytest.raises(OSError, match="No space left"):
        recorder.close()
    recorder.close()


def test_half_a_last_line_is_ignored_and_half_a_line_within_is_not() -> None:
    line = b'{"t":"finished","client":"ada","at":1}\n'
    assert list(read([line, line[:20]])) == [Finished("ada", 1)]
    with pytest.raises(BadHistory, match="line 2"):
        list(read([line, line[:20] + b"\n", line]))
    with pytest.raises(BadHistory, match="line 1"):
        list(read([b'{"t":"nonsense"}\n']))
