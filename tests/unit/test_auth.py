"""Tokens: every forgery gets one answer, every good one its identity."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from chatcluster.core.codes import Refused
from chatcluster.services.gateway.auth import (
    MAX_TOKEN,
    AuthSettings,
    Identity,
    TokenAuthenticator,
    valid_tenant,
    valid_user,
)
from chatcluster.services.gateway.keys import ASYMMETRIC, BadKeySet, PublishedKeys, SecretKeys, parse_key_set

NOW = 1_790_000_000
SECRET = bytes(range(32))


class Clock:
    """Time that stands until it is set."""

    def __init__(self) -> None:
        self.at = float(NOW)

    def now(self) -> int:
        return int(self.at * 1000)

    def monotonic(self) -> float:
        return self.at


@cache
def private(kind: str, which: int = 0) -> Any:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    if kind == "weak":
        return rsa.generate_private_key(65537, 1024)
    return ec.generate_private_key(ec.SECP256R1()) if kind == "EC" else ed25519.Ed25519PrivateKey.generate()


ALGORITHM = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA", "weak": "RS256"}
MAKERS: dict[str, Any] = {
    "RSA": jwt.algorithms.RSAAlgorithm,
    "weak": jwt.algorithms.RSAAlgorithm,
    "EC": jwt.algorithms.ECAlgorithm,
    "OKP": jwt.algorithms.OKPAlgorithm,
}


def private_jwk(kind: str) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(MAKERS[kind].to_jwk(private(kind)))
    return entry


def published(kind: str, kid: str | None = "1", which: int = 0, **more: Any) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(MAKERS[kind].to_jwk(private(kind, which).public_key()))
    return {**entry, **({} if kid is None else {"kid": kid}), **more}


def key_set(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    told = {"sub": "ann", "tid": "acme", "exp": NOW + 60, "iat": NOW, **changes}
    return {name: value for name, value in told.items() if value is not ...}


def signed(
    kind: str = "HS", kid: str | None = None, which: int = 0, headers: dict[str, Any] | None = None, **changes: Any
) -> str:
    key, algorithm = (SECRET, "HS256") if kind == "HS" else (private(kind, which), ALGORITHM[kind])
    return jwt.encode(
        claims(**changes), key, algorithm=algorithm, headers={**({"kid": kid} if kid else {}), **(headers or {})}
    )


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: object, payload: object, key: bytes = SECRET) -> str:
    """A token with a valid HMAC over whatever is in it."""
    text = f"{part(header)}.{part(payload)}"
    return f"{text}.{part(hmac.digest(key, text.encode(), hashlib.sha256))}"


def public_pem(kind: str) -> bytes:
    pem: bytes = (
        private(kind)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return pem


def secret_authenticator(clock: Clock | None = None, **settings: Any) -> TokenAuthenticator:
    return TokenAuthenticator(keys=SecretKeys(SECRET), clock=clock or Clock(), settings=AuthSettings(**settings))


class Issuer:
    """Publishes a key set, and counts who asks."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked = 0
        self.broken = False

    async def fetch(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("unreachable")
        return self.data


def told(main: Awaitable[Identity]) -> Identity:
    async def run() -> Identity:
        return await main

    return asyncio.run(run())


def refusal(main: Awaitable[Identity]) -> tuple[str, str, bool]:
    with pytest.raises(Refused) as caught:
        told(main)
    assert caught.value.__cause__ is None
    return caught.value.code, caught.value.message, caught.value.retryable


ONE_ANSWER = ("unauthorized", "the token is not valid", False)
HEADER = {"alg": "HS256", "typ": "JWT"}


def test_a_good_token() -> None:
    assert told(secret_authenticator().verify(signed())) == Identity("ann", "acme", NOW + 60.0, float(NOW))


def test_defaults() -> None:
    assert told(secret_authenticator().verify(signed(tid=..., iat=...))) == Identity("ann", "default", NOW + 60.0, 0.0)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "....",
        "é" + signed(),
        signed() + "x" * 1_000_000,
        "x" * 1_000_000,
        signed(picture="x" * MAX_TOKEN),
        signed()[:-2],
        jwt.encode(claims(), b"another secret of thirty-two byte", algorithm="HS256"),
        jwt.encode(claims(), None, algorithm="none"),
        by_hand({"alg": "none"}, claims()),
        f"{part({'alg': 'none'})}.{part(claims())}.",
        by_hand({"alg": "None"}, claims()),
        by_hand({"alg": "HS512"}, claims()),
        by_hand({"alg": ["HS256"]}, claims()),
        by_hand({"alg": None}, claims()),
        by_hand({"typ": "JWT"}, claims()),
        by_hand([], claims()),
        by_hand(b"[" * 5000, claims()),
        by_hand({**HEADER, "kid": 7}, claims()),
        by_hand({**HEADER, "crit": ["exp"]}, claims()),
        by_hand({**HEADER, "crit": []}, claims()),
        by_hand({**HEADER, "b64": False, "crit": ["b64"]}, claims()),
        by_hand({**HEADER, "zip": "DEF"}, claims()),
        by_hand({**HEADER, "jku": "https://evil.example/keys"}, claims()),
        by_hand({**HEADER, "jwk": {"kty": "oct", "k": part(SECRET)}}, claims()),
        by_hand({**HEADER, "x5u": "https://evil.example/cert"}, claims()),
        by_hand({**HEADER, "x5c": ["MIIB"]}, claims()),
        by_hand(HEADER, b"not json"),
        by_hand(HEADER, b"[" * 10_000),
        by_hand(HEADER, [claims()]),
        by_hand(HEADER, b'{"sub":"ann","exp":NaN}'),
        by_hand(HEADER, b'{"sub":"ann","exp":Infinity}'),
        by_hand(HEADER, b'{"sub":"ann","exp":1' + b"0" * 400 + b"}"),
        by_hand(HEADER, b'{"sub":"ann","exp":1e300}'),
        by_hand(HEADER, b'{"sub":"\\ud800","exp":%d}' % (NOW + 60)),
        signed(exp=...),
        signed(exp=NOW),
        signed(exp=NOW - 1),
        signed(exp=str(NOW + 60)),
        signed(exp=True),
        signed(nbf=NOW + 60),
        signed(nbf="soon"),
        signed(iat=NOW + 60),
        by_hand(HEADER, claims(iat="lately")),
        signed(sub=...),
        signed(sub=""),
        by_hand(HEADER, claims(sub=7)),
        signed(sub="x" * 129),
        signed(sub="a\nb"),
        signed(sub="a\x00b"),
        signed(sub="a\x85b"),
        signed(tid=""),
        signed(tid="a/b"),
        signed(tid="x" * 65),
        signed(tid="acme\n"),
        signed(tid=None),
        signed(tid=["acme"]),
    ],
)
def test_forged_tokens_get_one_answer(token: str) -> None:
    assert refusal(secret_authenticator().verify(token)) == ONE_ANSWER


@pytest.mark.parametrize(
    ("audience", "good"),
    [
        ("chat", True),
        (["web", "chat"], True),
        ("chat2", False),
        ("cha", False),
        ("x chat", False),
        (["chats"], False),
        ([], False),
        (..., False),
        (None, False),
        ({"chat": 1}, False),
        ([["chat"]], False),
    ],
)
def test_audience_is_compared_whole(audience: Any, good: bool) -> None:
    token = by_hand(HEADER, claims(aud=audience))
    verified = secret_authenticator(audience="chat").verify(token)
    if good:
        assert told(verified).user == "ann"
    else:
        assert refusal(verified) == ONE_ANSWER


@pytest.mark.parametrize("issuer", ["https://id.example.evil", "https://id", ..., ["https://id.example"], None])
def test_issuer_is_compared_whole(issuer: Any) -> None:
    checking = secret_authenticator(issuer="https://id.example")
    assert told(checking.verify(by_hand(HEADER, claims(iss="https://id.example")))).user == "ann"
    assert refusal(checking.verify(by_hand(HEADER, claims(iss=issuer)))) == ONE_ANSWER


def test_clocks_may_differ_a_little_but_late_is_late() -> None:
    checking = secret_authenticator(leeway=5.0)
    assert told(checking.verify(signed(nbf=NOW + 4, iat=NOW + 4))).user == "ann"
    assert refusal(checking.verify(signed(nbf=NOW + 6))) == ONE_ANSWER
    assert refusal(checking.verify(signed(exp=NOW - 1))) == ONE_ANSWER


def test_a_remembered_token_expires_all_the_same() -> None:
    clock = Clock()
    checking = secret_authenticator(clock)
    token = signed()
    told(checking.verify(token))
    clock.at += 59.0
    assert told(checking.verify(token)).user == "ann"
    clock.at += 1.0
    assert refusal(checking.verify(token)) == ONE_ANSWER


def test_what_is_remembered_is_bounded() -> None:
    checking = secret_authenticator(cache=3)
    for at in range(10):
        told(checking.verify(signed(sub=f"user{at}")))
    assert len(checking._cache) == 3


# -- published keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RSA", "EC", "OKP"])
def test_published_keys_verify(kind: str) -> None:
    async def main() -> None:
        keys = PublishedKeys(fetch=Issuer(key_set(published(kind))).fetch, clock=Clock())
        assert not keys.loaded
        assert await keys.load()
        checking = TokenAuthenticator(keys=keys, clock=Clock())
        assert (await checking.verify(signed(kind, "1"))).user == "ann"
        assert (await checking.verify(signed(kind))).user == "ann"  # one key: no need to name it

    asyncio.run(main())


def test_a_public_key_is_never_a_secret() -> None:
    async def main() -> None:
        keys = PublishedKeys(fetch=Issuer(key_set(published("RSA"))).fetch, clock=Clock())
        await keys.load()
        checking = TokenAuthenticator(keys=keys, clock=Clock())
        number = published("RSA")["n"].encode()
        for secret in (public_pem("RSA"), public_pem("RSA").strip(), number, key_set(published("RSA"))):
            for algorithm in ("HS256", "RS256"):
                with pytest.raises(Refused):
                    await checking.verify(by_hand({"alg": algorithm, "kid": "1"}, claims(), secret))

    asyncio.run(main())
    with pytest.raises(ValueError, match="not a shared secret"):
        SecretKeys(public_pem("RSA"))
    with pytest.raises(ValueError, match="not a shared secret"):
        SecretKeys(b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA")
    with pytest.raises(ValueError, match="at least 32"):
        SecretKeys(b"short")
    with pytest.raises(ValueError, match="algorithms"):
        PublishedKeys(fetch=Issuer(b"").fetch, clock=Clock(), algorithms=frozenset({"HS256", "RS256"}))


def test_the_key_says_the_algorithm_not_the_token() -> None:
    async def main() -> None:
        keys = PublishedKeys(
            fetch=Issuer(key_set(published("RSA", "1"), published("EC", "2"))).fetch, clock=Clock(), cooldown=1e9
        )
        await keys.load()
        checking = TokenAuthenticator(keys=keys, clock=Clock())
        assert (await checking.verify(signed("EC", "2"))).user == "ann"
        stronger = jwt.encode(claims(), private("RSA"), algorithm="RS512", headers={"kid": "1"})
        for token in (stronger, signed("EC", "1"), signed("RSA", "2"), signed("RSA"), signed("RSA", "3")):
            with pytest.raises(Refused):
                await checking.verify(token)

    asyncio.run(main())


def test_rotation() -> None:
    async def main() -> None:
        clock = Clock()
        issuer = Issuer(key_set(published("EC", "old")))
        keys = PublishedKeys(fetch=issuer.fetch, clock=clock, cooldown=10.0)
        await keys.load()
        checking = TokenAuthenticator(keys=keys, clock=clock)
        old, new = signed("EC", "old"), signed("EC", "new", which=1)
        await checking.verify(old)

        issuer.data = key_set(published("EC", "old"), published("EC", "new", which=1))
        with pytest.raises(Refused):
            await checking.verify(new)  # asked a moment ago: strangers cannot make us ask all the time
        assert issuer.asked == 1
        clock.at += 10.0
        together = await asyncio.gather(*(checking.verify(new) for _ in range(5)))
        assert [identity.user for identity in together] == ["ann"] * 5
        assert issuer.asked == 2  # one question for all

        clock.at += 10.0
        issuer.broken = True
        with pytest.raises(Refused):
            await checking.verify(signed("EC", "unknown", which=2))
        with pytest.raises(Refused):
            await checking.verify(signed("EC", "unheard of", which=2))
        assert issuer.asked == 3  # an issuer in trouble is not asked more often
        assert (await checking.verify(old)).user == "ann"  # the old set stays

        asked = issuer.asked
        clock.at += 10.0
        with pytest.raises(Refused):
            await checking.verify(signed("RSA", "new"))  # a key we have, for another algorithm: nothing to ask
        assert issuer.asked == asked

        issuer.broken = False
        issuer.data = key_set(published("EC", "new", which=1))
        await keys.load()
        with pytest.raises(Refused):
            await checking.verify(old)  # withdrawn: also for what was remembered
        assert (await checking.verify(new)).user == "ann"

    asyncio.run(main())


def test_before_there_are_keys_no_token_is_called_bad() -> None:
    async def main() -> None:
        issuer = Issuer(key_set(published("EC")))
        issuer.broken = True
        clock = Clock()
        checking = TokenAuthenticator(keys=PublishedKeys(fetch=issuer.fetch, clock=clock), clock=clock)
        with pytest.raises(Refused) as refused:
            await checking.verify(signed("EC", "1"))
        assert (refused.value.code, refused.value.retryable) == ("unavailable", True)
        assert checking.problems() is not None
        issuer.broken = False
        clock.at += 10.0
        assert (await checking.verify(signed("EC", "1"))).user == "ann"
        assert checking.problems() is None

    asyncio.run(main())
    assert secret_authenticator().problems() is None


def test_keys_are_fetched_again_in_time(jump: Callable[..., None], loop_clock: Any) -> None:
    async def main() -> None:
        issuer = Issuer(b"nonsense")
        keys = PublishedKeys(fetch=issuer.fetch, clock=loop_clock, refresh=300.0, cooldown=10.0)
        running = asyncio.create_task(keys.run())
        await asyncio.sleep(1.0)
        assert not keys.loaded
        issuer.data = key_set(published("EC"))
        await asyncio.sleep(10.0)
        assert keys.loaded
        asked = issuer.asked
        await asyncio.sleep(301.0)
        assert issuer.asked == asked + 1
        running.cancel()
        await asyncio.wait([running])

    jump(main())


def test_a_fetch_that_hangs_is_given_up(jump: Callable[..., None], loop_clock: Any) -> None:
    async def main() -> None:
        async def hang() -> bytes:
            await asyncio.sleep(1e6)
            return b""

        keys = PublishedKeys(fetch=hang, clock=loop_clock, timeout=5.0)
        began = loop_clock.monotonic()
        assert not await keys.load()
        assert loop_clock.monotonic() - began <= 5.1

    jump(main())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":1}',
        b'{"keys":[]}',
        b'{"keys":[7,null,{"kty":7}]}',
        b'{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"1","alg":"HS256"}]}',
        b'{"keys":[{"kty":"RSA","n":"!","e":"AQAB"}]}',
        key_set(published("EC")) + b" " * (1 << 20),
    ],
)
def test_sets_without_a_usable_key(data: bytes) -> None:
    with pytest.raises(BadKeySet):
        parse_key_set(data)


def test_keys_that_must_not_be_used_are_passed_over() -> None:
    good = published("EC", "good")
    bad = [
        published("RSA", "1", use="enc"),
        published("RSA", "2", alg="HS256"),
        published("RSA", "3", alg="ES256"),
        published("weak", "4"),
        {**private_jwk("RSA"), "kid": "5", "key_ops": ["verify"]},
        published("RSA", "6", key_ops=["sign"]),
        {**published("EC", "7"), "crv": "P-999"},
        {**published("EC"), "kid": ["8"]},
    ]
    assert set(parse_key_set(key_set(*bad, good))) == {"good"}
    with pytest.raises(BadKeySet):
        parse_key_set(key_set(good), ASYMMETRIC - {"ES256"})
    keys = PublishedKeys(fetch=Issuer(key_set(good)).fetch, clock=Clock(), algorithms=ASYMMETRIC - {"ES256"})
    assert not asyncio.run(keys.load())
    with pytest.raises(BadKeySet):
        parse_key_set(key_set(published("EC", "1"), published("EC", "1", which=1)))


def test_of_a_set_the_first_64_keys_count() -> None:
    many = [published("EC", str(number)) for number in range(65)]
    assert list(parse_key_set(key_set(*many))) == [str(number) for number in range(64)]


@pytest.mark.parametrize("user", ["a", "x" * 128, "Ünï çødé 👩‍👩‍👧", "\u202ebidi", "a/b"])
def test_users(user: str) -> None:
    assert valid_user(user)


@pytest.mark.parametrize("tenant", ["a", "A-b_c.9", "x" * 64])
def test_tenants(tenant: str) -> None:
    assert valid_tenant(tenant)
