"""Settings of the persister."""

from __future__ import annotations

import msgspec


class PersisterSettings(msgspec.Struct, frozen=True):
    """How the log becomes rows. Seconds unless said."""

    inbox_fanout_limit: int = 500
    """Members from which a channel is proposed its own timeline: more inbox writes per message cost too much."""

    inbox_fanout_floor: int = 400
    """Members below which it is proposed to go back: the distance keeps a channel at the limit from flapping."""

    channels: int = 20_000
    """Channels whose members and route are remembered per partition; the least lately used are read again."""

    members: int = 200_000
    """Members remembered per partition, over all channels: about 20 MB."""

    users: int = 50_000
    """Inboxes whose newest position is remembered per partition; about 150 bytes each."""

    repeat_window: int = 10_000
    """Offsets of `inbox` within which a reference appended twice is told once. Read back at the start."""

    append_chunk: int = 2_000
    """References appended before their reports are awaited: bounds what is in flight."""

    loads: int = 64
    """Channels read from the store at the same time."""

    read_back_page: int = 2_000
    """Records per read when the memory of client_ids is rebuilt."""

    retry_base: float = 0.05
    """First window of the full-jitter backoff when a backend does not answer. It is tried for ever."""

    retry_cap: float = 5.0
    """The longest such window: how late we notice that the backend is back."""

    tail_patience: float = 1.0
    """How long a batch waits for the tails. They are a cache: without them events come from the store."""

    tail_backlog: int = 10_000
    """Tail entries kept for tails that do not answer; over it the oldest go and readers see the gap by `prev`."""

    round_interval: float = 0.025
    """At least this long from one fetch to the next: nobody waits for the store (law 1), and a round for each
    message would cost several times the message."""
    commit_interval: float = 0.5
    """Between two commits of the consumers' positions: what a crash makes us write again."""

    progress_interval: float = 1.0
    """Between two publications of the committed positions beside the tails."""

    tick_interval: float = 5.0
    """Between two ticks in every partition of `messages`: the log's time moves while nobody speaks."""

    read_flush_interval: float = 3.0
    """A read cursor is flushed at most this late ..."""

    read_flush_count: int = 100
    """... or as soon as this many changed."""

    read_poll_interval: float = 0.5
    """Between two looks at how many read cursors changed."""

    read_batch: int = 1_000
    """Read cursors in one flush."""
