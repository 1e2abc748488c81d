"""Port PresenceStore: sessions live as long as they are renewed."""

from __future__ import annotations

import asyncio

from chatcluster.ports import Beat

LONG = 60_000


def beat(session="s", status="online", user="u", tenant="t"):
    return Beat(tenant, user, session, status)


U = ("t", "u")


async def shown(store):
    """The sessions of ``U`` with their status."""
    return {session: status for session, (status, _) in (await store.sessions([U]))[0].items()}


def test_touch_tells_when_the_shown_status_may_have_changed(jump, loop_clock, make_presence):
    async def main():
        async with make_presence(clock=loop_clock) as store:
            assert await store.touch([beat(), beat(), beat("s2", "away")], ttl=LONG) == [True, False, False]
            first, stranger = await store.sessions([U, ("other", "u")])
            assert stranger == {}
            assert await shown(store) == {"s": "online", "s2": "away"}
            await asyncio.sleep(0.2)
            assert await store.touch([beat(status="away")], ttl=LONG) == [True]
            second = (await store.sessions([U]))[0]
            assert second["s"][1] > first["s"][1]
            assert second["s2"] == first["s2"]
            await asyncio.sleep(0.2)
            assert await store.touch([beat(status="away")], ttl=LONG) == [False]
            assert (await store.sessions([U]))[0] == second, "since when, not renewed when"
            gone = [beat("s", "offline"), beat("s2", "offline"), beat("s2", "offline")]
            assert await store.touch(gone, ttl=LONG) == [False, True, False]
            assert await store.sessions([U]) == [{}]

    jump(main())


def test_expired_names_a_user_once_after_the_last_session_ended(jump, loop_clock, make_presence):
    async def main():
        async with make_presence(clock=loop_clock) as store:
            await store.touch([beat("a"), beat("x", user="v")], ttl=500)
            await store.touch([beat("b")], ttl=1200)
            await asyncio.sleep(0.8)
            assert await store.expired(100) == [("t", "v")]
            assert await shown(store) == {"b": "online"}
            await store.touch([beat("b")], ttl=1200)
            await asyncio.sleep(0.8)
            assert await store.expired(100) == []
            await asyncio.sleep(0.8)
            assert await store.sessions([U]) == [{}]
            assert await store.touch([beat("c")], ttl=500) == [True]
            assert await store.expired(100) == []
            await asyncio.sleep(0.8)
            assert await store.expired(100) == [U]
            assert await store.expired(100) == []

    jump(main())


def test_when_the_longest_lived_leaves_the_others_end_in_time(jump, loop_clock, make_presence):
    async def main():
        async with make_presence(clock=loop_clock) as store:
            await store.touch([beat("long")], ttl=LONG)
            await store.touch([beat("short")], ttl=300)
            await store.touch([beat("long", "offline")], ttl=300)
            await asyncio.sleep(0.5)
            assert await store.expired(100) == [U]

    jump(main())


def test_bounded_limited_and_wiped(jump, loop_clock, make_presence, wipe):
    async def main():
        async with make_presence(clock=loop_clock, sessions=2) as store:
            assert await store.touch([beat(user=user) for user in "abc"], ttl=300) == [True, True, False]
            await asyncio.sleep(0.5)
            assert len(await store.expired(1)) == 1
            assert len(await store.expired(5)) == 1
            assert await store.touch([beat(user="c")], ttl=LONG) == [True]
            await wipe(store)
            assert await store.sessions([("t", "c")]) == [{}]
            assert await store.expired(5) == []

    jump(main())
