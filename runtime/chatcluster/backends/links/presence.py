"""Port ``PresenceService`` over connections: every user belongs to one presence node, by rendezvous.

Heartbeats and visible sets are split by user, so that the node that hears of a user is the one that tells of it.
When a node comes or goes, the sets are told anew. Sheds: what cannot be said now is dropped (law 9).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from chatcluster.backends.links.dialing import Dialer, Peer
from chatcluster.backends.links.settings import LinkSettings
from chatcluster.backends.links.wire import Beats, Forget, Watch, Watched, encode, frames
from chatcluster.core.envelope import Presence, PresenceChange
from chatcluster.core.metrics import Metrics
from chatcluster.core.placement import place
from chatcluster.ports import Beat, Clock, Unavailable

ANSWER = 2.0
"""Seconds that a watch waits for the state now; without it the state comes with the changes."""
ENTRIES = 1_000_000
"""(session, user) pairs remembered, to tell them to another node; those beyond are not told again."""
_SLICE = 2_000
"""Users told anew before the loop is free again."""
_PAUSE = 0.5
"""Seconds between two rounds of telling anew: nodes come and go in groups."""
_OWNERS = 200_000
"""Users whose node is remembered: finding it costs a hash per node."""


class PresencePeer(Peer):
    """One presence node."""

    def __init__(self, link: PresenceLink, secret: bytes) -> None:
        super().__init__(link, secret)
        self.asked: dict[int, asyncio.Future[Sequence[PresenceChange]]] = {}
        self._number = 0

    def told(self, message: Any) -> None:
        if type(message) is Watched:
            asked = self.asked.pop(message.number, None)
            if asked is not None and not asked.done():
                asked.set_result(message.changes)

    def ask(
        self, gateway: str, session: str, tenant: str, users: list[str]
    ) -> asyncio.Future[Sequence[PresenceChange]]:
        """Send a watch. Its answer; empty when the node is lost."""
        self._number = number = self._number + 1
        self.say(encode(Watch(number, gateway, session, tenant, users)))
        future: asyncio.Future[Sequence[PresenceChange]] = self._loop.create_future()
        self.asked[number] = future
        future.add_done_callback(lambda _: self.asked.pop(number, None))
        return future

    def ended(self, why: str) -> None:
        asked, self.asked = self.asked, {}
        for future in asked.values():
            if not future.done():
                future.set_result(())
        super().ended(why)


class _Set:
    """A session's visible set, and the nodes that know of it."""

    __slots__ = ("nodes", "tenant", "users")

    def __init__(self, tenant: str, users: tuple[str, ...], nodes: set[str]) -> None:
        self.tenant = tenant
        self.users = users
        self.nodes = nodes


class PresenceLink(Dialer):
    """Port ``PresenceService``. Made by ``open``."""

    def __init__(self, settings: LinkSettings, *, name: str, clock: Clock, metrics: Metrics) -> None:
        super().__init__(
            settings,
            kind="presence",
            section="presences",
            name=name,
            clock=clock,
            metrics=metrics,
            make=lambda secret: PresencePeer(self, secret),
        )
        self._sets: dict[tuple[str, str], _Set] = {}  # by gateway and session
        self._entries = 0
        self._owners: dict[tuple[str, str], str] = {}
        self._moved = asyncio.Event()
        self.told: Callable[[Presence], None] | None = None
        """Gets the state that another node found for visible sets that moved to it: what changed meanwhile is in it."""
        self._shed = metrics.counter("link_presence_shed_total", "Heartbeats and watches that could not be told.")

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: LinkSettings, *, name: str, clock: Clock, metrics: Metrics
    ) -> AsyncIterator[PresenceLink]:
        """The link for the time of the block; it connects by itself. ``name``: this gateway's."""
        link = cls(settings, name=name, clock=clock, metrics=metrics)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(link.run()), group.create_task(link._tell_anew())]
            try:
                yield link
            finally:
                for task in tasks:
                    task.cancel()
                link.close()

    # -- the port ---------------------------------------------------------------------------------------

    def beat(self, gateway: str, beats: Sequence[Beat]) -> None:
        """See ``ports.PresenceService``."""
        parts: dict[str, list[Beat]] = {}
        names = self._names()
        if not names:
            self._shed.add(len(beats))
            return
        for beat in beats:
            parts.setdefault(self._owner(beat.tenant, beat.user, names), []).append(beat)
        for name, part in parts.items():
            peer = self.peers[name]
            if peer.clogged:
                self._shed.add(len(part))
                continue
            for frame in frames(partial(Beats, gateway), part, lambda _: self._shed.add()):
                peer.say(frame)

    async def watch(self, gateway: str, session: str, tenant: str, users: Sequence[str]) -> Sequence[PresenceChange]:
        """See ``ports.PresenceService``. Raises ``Unavailable`` when no node is there."""
        key = (gateway, session)
        one = _Set(tenant, tuple(users), self._drop(key))
        if self._entries + len(one.users) <= ENTRIES:
            self._entries += len(one.users)
            self._sets[key] = one
        if not self._names():
            self._shed.add()
            raise Unavailable("no presence node is connected")
        return await _gathered(self._tell(key, one))

    def forget(self, gateway: str, sessions: Sequence[str]) -> None:
        """See ``ports.PresenceService``."""
        frame = encode(Forget(gateway, list(sessions)))
        for session in sessions:
            self._drop((gateway, session))
        for peer in self.peers.values():
            peer.say(frame)

    # -- splitting --------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [name for name, peer in self.peers.items() if not peer.leaving]

    def _owner(self, tenant: str, user: str, names: list[str]) -> str:
        if len(names) == 1:
            return names[0]
        owner = self._owners.get((tenant, user))
        if owner is None:
            if len(self._owners) >= _OWNERS:
                self._owners.clear()
            owner = self._owners[tenant, user] = place(f"{tenant}/{user}", names)
        return owner

    def _move(self) -> None:
        self._owners.clear()
        self._moved.set()

    def _tell(self, key: tuple[str, str], one: _Set) -> list[asyncio.Future[Sequence[PresenceChange]]]:
        """Tell every node its part of a set, also those that have none of it any more."""
        names = self._names()
        parts: dict[str, list[str]] = {name: [] for name in one.nodes if name in self.peers}
        for user in one.users:
            parts.setdefault(self._owner(one.tenant, user, names), []).append(user)
        waiting: list[asyncio.Future[Sequence[PresenceChange]]] = []
        one.nodes = set()
        for name, users in parts.items():
            peer = self.peers[name]
            assert isinstance(peer, PresencePeer)
            if peer.clogged:
                self._shed.add()
                one.nodes.add(name)
                self._moved.set()  # again later
            elif users:
                one.nodes.add(name)
                waiting.append(peer.ask(key[0], key[1], one.tenant, users))
            else:
                peer.ask(key[0], key[1], one.tenant, users)
        return waiting

    def _drop(self, key: tuple[str, str]) -> set[str]:
        """Forget a session's set; the nodes that know of it."""
        old = self._sets.pop(key, None)
        if old is None:
            return set()
        self._entries -= len(old.users)
        return old.nodes

    # -- who comes and goes -------------------------------------------------------------------------------

    def arrived(self, peer: Peer) -> None:
        super().arrived(peer)
        for one in self._sets.values():
            one.nodes.discard(peer.name)  # a node that restarted knows nothing
        self._move()

    def left(self, peer: Peer) -> None:
        self._move()
        peer.end("it said goodbye")

    def lost(self, peer: Peer, why: str) -> None:
        super().lost(peer, why)
        self._move()

    async def _tell_anew(self) -> None:
        """Every set to the nodes that it belongs to now, a slice at a time."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            known: dict[tuple[str, str], PresenceChange] = {}
            waiting: dict[str, list[asyncio.Future[Sequence[PresenceChange]]]] = {}
            users = 0
            for key in list(self._sets):
                one = self._sets.get(key)
                if one is not None and self._names():
                    waiting.setdefault(one.tenant, []).extend(self._tell(key, one))
                    users += len(one.users)
                if users >= _SLICE:
                    await self._pass_on(waiting, known)
                    waiting, users = {}, 0
            await self._pass_on(waiting, known)
            await asyncio.sleep(_PAUSE)

    async def _pass_on(
        self,
        waiting: Mapping[str, Sequence[asyncio.Future[Sequence[PresenceChange]]]],
        known: dict[tuple[str, str], PresenceChange],
    ) -> None:
        """The state of those that were told anew, each user once."""
        for tenant, futures in waiting.items():
            news = []
            for change in await _gathered(futures):
                if known.get((tenant, change.user)) != change:
                    known[tenant, change.user] = change
                    news.append(change)
            if news and self.told is not None:
                self.told(Presence({tenant: news}))


async def _gathered(futures: Sequence[asyncio.Future[Sequence[PresenceChange]]]) -> list[PresenceChange]:
    """The answers that come in time."""
    if not futures:
        return []
    done, late = await asyncio.wait(futures, timeout=ANSWER)
    for future in late:
        future.cancel()
    return [change for future in done if not future.cancelled() for change in future.result()]
