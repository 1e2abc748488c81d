"""Port PresenceStore: sessions live as long as they are renewed."""

from __future__ import annotations

import asyncio

from chatcluster.ports import Beat


def beat(session="s", status="online", user="u", tenant="t"):
    return Beat(tenant, user, session, status)


U = ("t", "u")


def test_touch_tells_when_the_shown_status_may_have_changed(jump, loop_clock, make_presence):
    async def main():
        store = make_presence(clock=loop_clock)
        assert await store.touch([beat(), beat(), beat("s2", "away")], ttl=1000) == [True, False, False]
        began = loop_clock.now()
        assert await store.sessions([U, ("other", "u")]) == [{"s": ("online", began), "s2": ("away", began)}, {}]
        await asyncio.sleep(0.5)
        assert await store.touch([beat(status="away")], ttl=1000) == [True]
        assert (await store.sessions([U]))[0]["s"] == ("away", began + 500)
        assert await store.touch([beat(status="away")], ttl=1000) == [False]
        assert (await store.sessions([U]))[0]["s"] == ("away", began + 500), "since when, not renewed when"
        assert await store.touch([beat("s", "offline"), beat("s2", "offline"), beat("s2", "offline")], ttl=1000) == [
            False,
            True,
            False,
        ]
        assert await store.sessions([U]) == [{}]

    jump(main())


def test_expired_names_a_user_once_after_the_last_session_ended(jump, loop_clock, make_presence):
    async def main():
        store = make_presence(clock=loop_clock)
        await store.touch([beat("a"), beat("x", user="v")], ttl=1000)
        await store.touch([beat("b")], ttl=3000)
        await asyncio.sleep(2)
        assert await store.expired(10) == [("t", "v")]
        assert list((await store.sessions([U]))[0]) == ["b"]
        await store.touch([beat("b")], ttl=3000)
        await asyncio.sleep(2)
        assert await store.expired(10) == []
        await asyncio.sleep(2)
        assert await store.sessions([U]) == [{}]
        assert await store.touch([beat("c")], ttl=1000) == [True]
        assert await store.expired(10) == []
        await asyncio.sleep(2)
        assert await store.expired(10) == [U]
        assert await store.expired(10) == []

    jump(main())


def test_when_the_longest_lived_leaves_the_others_end_in_time(jump, loop_clock, make_presence):
    async def main():
        store = make_presence(clock=loop_clock)
        await store.touch([beat("long")], ttl=60_000)
        await store.touch([beat("short")], ttl=1000)
        await store.touch([beat("long", "offline")], ttl=1000)
        await asyncio.sleep(2)
        assert await store.expired(10) == [U]

    jump(main())


def test_bounded_limited_and_wiped(jump, loop_clock, make_presence):
    async def main():
        store = make_presence(clock=loop_clock, sessions=2)
        assert await store.touch([beat(user=user) for user in "abc"], ttl=1000) == [True, True, False]
        await asyncio.sleep(2)
        assert len(await store.expired(1)) == 1
        assert len(await store.expired(5)) == 1
        assert await store.touch([beat(user="c")], ttl=1000) == [True]
        store.wipe()
        assert await store.sessions([("t", "c")]) == [{}]
        assert await store.expired(5) == []

    jump(main())
