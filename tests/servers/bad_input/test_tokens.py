"""Tokens that are refused, all alike."""

from __future__ import annotations

import base64
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from wires import head

AUDIENCE, ISSUER = "chat.example", "https://id.example"


class Issuer:
    """An identity provider with one RSA key, published."""

    def __init__(self, folder: Path) -> None:
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key()))
        self.jwk = {**jwk, "kid": "k1", "alg": "RS256", "use": "sig"}
        self.file = folder / "jwks.json"
        self.file.write_text(json.dumps({"keys": [self.jwk]}))
        self.config = folder / "config.toml"
        self.config.write_text(
            f'[auth]\njwks_file = "{self.file}"\naudience = "{AUDIENCE}"\nissuer = "{ISSUER}"\n'
            "[gateway]\ndrain_propagation = 0\ndrain_notice = 0\n"
        )

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"sub": "ann", "aud": AUDIENCE, "iss": ISSUER, "iat": now, "exp": now + 600, **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        return jwt.encode(
            self.claims(**claims), key or self.private, algorithm="RS256", headers={"kid": "k1", **(header or {})}
        )

    def unsigned(self, algorithm: str, signature: bytes = b"", **header: Any) -> str:
        parts = [{"alg": algorithm, "kid": "k1", "typ": "JWT", **header}, self.claims()]
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
        return b".".join([*encoded, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()

    def confused(self) -> str:
        """HS256, signed with the published RSA key as the secret."""
        import hashlib
        import hmac

        head_, body, _ = self.unsigned("HS256").split(".")
        made = hmac.new(self.public_pem(), f"{head_}.{body}".encode(), hashlib.sha256).digest()
        return f"{head_}.{body}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


TOKENS: dict[str, Callable[[Issuer], str | None]] = {
    "none": lambda issuer: None,
    "empty": lambda issuer: "",
    "rubbish": lambda issuer: "rubbish",
    "dots": lambda issuer: "..",
    "alg none": lambda issuer: issuer.unsigned("none"),
    "alg None": lambda issuer: issuer.unsigned("None"),
    "HS256 with the RSA public key": lambda issuer: issuer.confused(),
    "another's signature": lambda issuer: issuer.token(key=issuer.other),
    "an unknown kid": lambda issuer: issuer.token(header={"kid": "k2"}),
    "wrong aud": lambda issuer: issuer.token(aud="chat.example.evil"),
    "no aud": lambda issuer: issuer.token(aud=None),
    "wrong iss": lambda issuer: issuer.token(iss="https://id.example/"),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 1),
    "no exp": lambda issuer: issuer.token(exp=None),
    "exp a string": lambda issuer: issuer.token(exp=None, nbf=None) + "x",
    "nbf ahead": lambda issuer: issuer.token(nbf=int(time.time()) + 60),
    "crit": lambda issuer: issuer.token(header={"crit": ["x"], "x": 1}),
    "jku": lambda issuer: issuer.token(header={"jku": "https://evil.example/jwks.json"}),
    "jwk": lambda issuer: issuer.token(
        key=issuer.other,
        header={"jwk": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(issuer.other.public_key()))},
    ),
    "no sub": lambda issuer: issuer.token(sub=None),
    "a sub with a newline": lambda issuer: issuer.token(sub="a\nb"),
    "a tid with a slash": lambda issuer: issuer.token(tid="a/b"),
    "20 KB": lambda issuer: issuer.token(pad="x" * 20_000),
    "60 KB of nothing": lambda issuer: "x" * 60_000,
    "not ASCII": lambda issuer: issuer.token() + "\u00fc",
}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def strict(serve: Any, issuer: Issuer) -> Any:
    """A server that believes one issuer."""
    return serve("--config", str(issuer.config))


def refused_hello(server: Any, token: str | None) -> tuple[dict[str, Any], int, float]:
    """The error, the close code, and the seconds from the hello to the error."""
    wire = server.open()
    began = time.perf_counter()
    wire.say(type="hello", rid="r", **({} if token is None else {"token": token}))
    error = wire.next()
    took = time.perf_counter() - began
    code = wire.close_code()
    wire.stop()
    return error, code, took


UNAUTHORIZED = {
    "type": "error",
    "rid": "r",
    "code": "unauthorized",
    "message": "the token is not valid",
    "retryable": False,
}


@pytest.mark.parametrize("row", TOKENS)
def test_token(strict: Any, issuer: Issuer, row: str) -> None:
    token = TOKENS[row](issuer)

    error, code, _ = refused_hello(strict, token)

    assert error == UNAUTHORIZED
    assert code == 4401
    assert strict.metric("sessions") == 0
    assert token in {None, ""} or token not in strict.output()
    assert "Traceback" not in strict.output()


def test_token_that_is_right_is_taken(strict: Any, issuer: Issuer) -> None:
    """Else every row above would prove nothing."""
    wire = strict.open()

    assert wire.ask("hello", token=issuer.token())["type"] == "welcome"
    assert wire.ask("token", token=issuer.token(sub="bob"))["code"] == "unauthorized"
    assert wire.ask("token", token=issuer.token(exp=int(time.time()) - 1))["code"] == "unauthorized"
    assert wire.ask("token", token=issuer.token(tid="other"))["message"] == UNAUTHORIZED["message"]
    strict.hang_up()


def test_token_of_the_handshake_is_judged_alike(strict: Any, issuer: Issuer) -> None:
    for token in (issuer.unsigned("none"), issuer.token(aud="x"), "rubbish"):
        wire = strict.open({"Authorization": f"Bearer {token}"})
        wire.say(type="hello", rid="r")
        assert wire.next() == UNAUTHORIZED
        assert wire.close_code() == 4401
    strict.hang_up()


def test_token_of_a_megabyte_is_a_frame_over_the_limit(strict: Any) -> None:
    wire = strict.open()
    with suppress(ConnectionError):
        wire.say(type="hello", rid="r", token="x" * (1 << 20))
    assert wire.close_code() == 1009
    assert strict.wire().request(head(more={"Authorization": "Bearer " + "x" * (1 << 20)}))[0] == 431
    strict.hang_up()


def test_tokens_are_refused_in_one_class_of_time(strict: Any, issuer: Issuer) -> None:
    """Whoever measures learns nothing of a claim: medians of interleaved rounds lie within a factor.

    What its own header already condemns is refused before a signature is reckoned; its writer knows the header.
    """
    signed = ["another's signature", "wrong aud", "wrong iss", "expired", "nbf ahead"]
    headers = ["alg none", "HS256 with the RSA public key", "crit", "jku"]
    taken: dict[str, list[float]] = {row: [] for row in signed + headers}

    for _ in range(21):
        for row, times in taken.items():
            times.append(refused_hello(strict, TOKENS[row](issuer))[2])

    medians = {row: statistics.median(times) for row, times in taken.items()}
    print({row: f"{median * 1e3:.2f} ms" for row, median in medians.items()})
    for rows in (signed, headers):
        times = [medians[row] for row in rows]
        assert max(times) < 2 * min(times), medians


def test_nothing_goes_before_hello(server: Any) -> None:
    wire = server.open()

    for type_ in ("channels", "sync"):
        assert wire.ask(type_)["code"] == "not_authenticated"
    assert wire.ask("send", channel="c", client_id="i", body="b")["code"] == "not_authenticated"
    wire.pong()
