"""Nothing that is secret is in a bundle, wherever it stood and however it was written."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import tarfile
import time
import urllib.parse
from contextlib import suppress

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from chatcluster_operator.plugin.redact import GONE, Redactor, sensitive_key
from chatcluster_operator.plugin.report import LARGEST, Bundle, newest, secrets_of

PRINTABLE = "".join(chr(code) for code in range(33, 127))
SECRETS = st.one_of(
    st.text(PRINTABLE, min_size=6, max_size=40),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=6, max_size=20),
    st.binary(min_size=16, max_size=33).map(bytes.hex),
    st.binary(min_size=16, max_size=33).map(lambda raw: base64.b64encode(raw).decode()),
)
WORDS = st.text("abcdefghij ", max_size=12)


def b64(text):
    return base64.b64encode(text.encode()).decode()


WRITTEN = {
    "plain": lambda secret: secret,
    "base64": b64,
    "base64 for addresses": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "in base64 of more": lambda secret: b64(f"someone:{secret}"),
    "in base64 of more, otherwise": lambda secret: b64(f"some:{secret}!"),
    "hexadecimal": lambda secret: secret.encode().hex(),
    "hexadecimal in capitals": lambda secret: secret.encode().hex().upper(),
    "percent": lambda secret: urllib.parse.quote(secret, safe=""),
    "percent in small letters": lambda secret: urllib.parse.quote(secret, safe="").replace("%2F", "%2f"),
    "form": urllib.parse.quote_plus,
    "JSON as Go writes it": lambda secret: (
        json.dumps(secret, ensure_ascii=False).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003E")
    ),
    "JSON as PHP writes it": lambda secret: json.dumps(secret).replace("/", "\\/"),
    "HTML": html.escape,
    "JSON": json.dumps,
    "JSON in JSON": lambda secret: json.dumps(json.dumps({"x": secret})),
    "JSON, no ASCII": lambda secret: json.dumps(secret, ensure_ascii=False),
    "address": lambda secret: f"redis://app:{urllib.parse.quote(secret, safe='')}@redis:6379/0",
}
"""How a secret that is known may be written where nobody expects it."""
PLACES = {
    "log": lambda text: ("logs/p/c.log", f"2026-01-01T00:00:00Z it said {text} and ended\n"),
    "event": lambda text: ("events.json", [{"note": f"failed: {text}"}]),
    "annotation": lambda text: ("pods/p.json", {"metadata": {"annotations": {"note": text}}}),
    "key": lambda text: ("pods/q.json", {"metadata": {"labels": {text: "x"}}}),
    "argument": lambda text: ("pods/r.json", {"spec": {"containers": [{"args": ["--greet", text]}]}}),
    "settings": lambda text: (
        "configmaps/c.json",
        {"data": {"config.toml": f"[router]\nmotto = {json.dumps(text)}\n"}},
    ),
    "name": lambda text: (f"logs/{text}/c.log", "nothing"),
}
SAID = {
    "field": lambda secret: {"spec": {"settings": {"redis": {"password": secret}}}},
    "variable": lambda secret: {"env": [{"name": "KAFKA_SASL_PASSWORD", "value": secret}]},
    "after an option": lambda secret: {"args": ["--token", secret]},
    "deep": lambda secret: {"credentials": {"x": [{"y": secret}]}},
    "Secret": lambda secret: {"kind": "Secret", "stringData": {"api_key": secret}},
}
"""Where it is told that something is a secret."""


def bundled(files, values=(), keep=()):
    bundle = Bundle()
    for name, what in files:
        bundle.put(name, what)
    data = bundle.packed(Redactor(values, keep), {"by": "test"})
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {one.name: tar.extractfile(one).read().decode() for one in tar.getmembers()}


def leaked(files, secret):
    """Files in which somebody who looks for it finds it: read as they are, and decoded in all ways."""
    return [name for name, text in files.items() if any(secret in one for one in readings(f"{name}\n{text}"))]


def readings(text):
    yield text
    yield urllib.parse.unquote(text, errors="replace")
    yield urllib.parse.unquote_plus(text, errors="replace")
    yield html.unescape(text)
    once = unescaped(text)
    yield once
    yield unescaped(once)
    for token in re.findall(r"[A-Za-z0-9+/_-]{6,}", text):
        for alphabet in ("+/", "-_"):
            for padding in ("", "=", "=="):
                with suppress(ValueError):
                    yield base64.b64decode(token + padding, alphabet.encode(), validate=True).decode(errors="replace")
        with suppress(ValueError):
            yield bytes.fromhex(token).decode(errors="replace")


def unescaped(text):
    """Without the escapes of JSON."""
    text = re.sub(r"(?:\\u[0-9a-fA-F]{4})+", lambda one: json.loads(f'"{one[0]}"'), text)
    return re.sub(r"\\(.)", r"\1", text)


@settings(max_examples=200)
@given(
    SECRETS,
    st.lists(st.tuples(st.sampled_from(sorted(WRITTEN)), st.sampled_from(sorted(PLACES))), min_size=1, max_size=4),
    st.sampled_from([*sorted(SAID), "value"]),
)
@example("▒▒▒▒▒▒x", [("plain", "log")], "value")
@example('"""""""', [("JSON in JSON", "log")], "value")
@example("redacted", [("plain", "annotation")], "field")
@example("aaaaaaaa", [("plain", "log")], "value")
def test_a_secret_that_is_known_is_nowhere(secret, planted, said):
    if GONE in secret or secret in GONE:
        return
    assume(all(secret not in text for text in (_EMPTY["report/manifest.json"], "report/manifest.json")))
    files = [PLACES[place](WRITTEN[how](secret)) for how, place in planted]
    if said != "value":
        files.append(("chatcluster.json", SAID[said](secret)))
    assert leaked(bundled(files, [secret] if said == "value" else []), secret) == []


_EMPTY = bundled([])

TOLD = {
    "pair": "connecting with password={} as app",
    "option": "started with --redis-password {} and more",
    "json": '{{"level": "info", "sasl_password": "{}", "n": 1}}',
    "escaped json": 'body: {{\\"client_secret\\": \\"{}\\"}}',
    "yaml": "token: {}",
    "toml": 'api_key = "{}"',
    "bearer": "> Authorization: Bearer {}",
    "address": "GET https://app:{}@host/path failed",
    "shell": "export AWS_SECRET_ACCESS_KEY={}",
}


@settings(max_examples=200)
@given(
    st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.+", min_size=8, max_size=40),
    st.sampled_from(sorted(TOLD)),
    WORDS,
)
def test_what_a_log_says_is_a_secret_is_nowhere_either(secret, how, words):
    assume(not secret.isdigit())
    log = f"{words}\n{TOLD[how].format(secret)}\nand then {secret} alone, {b64(secret)}\n"
    found = bundled([("logs/p/c.log", log), ("pods/p.json", {"metadata": {"annotations": {"x": secret}}})])
    assert leaked(found, secret) == []
    assert "and then" in found["report/logs/p/c.log"]


@pytest.mark.parametrize(
    "text",
    [
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKCAQEA and the log ends",
        "AKIAIOSFODNN7EXAMPLE",
        "ab" * 32,
        "ghp_0123456789abcdefghijABCDEFGHIJ",
    ],
)
def test_what_looks_like_a_secret_goes_though_nobody_told(text):
    found = bundled([("logs/p/c.log", f"it said {text}"), ("e.json", [{"note": f"x {text}"}])])
    assert not [name for name, got in found.items() if text in got or text[8:40] in got]


def test_basic_credentials_are_known_by_their_password_too():
    log = f"Authorization: Basic {b64('app:correct-horse')}\nlater: correct-horse"
    assert "horse" not in bundled([("l.log", log)])["report/l.log"]


@pytest.mark.parametrize("secret", ["a", "pw", "main", "12345"])
def test_short_secrets_go_as_words(secret):
    found = bundled([("l.log", f"maintain {secret} apart, {secret}.")], [secret])["report/l.log"]
    assert found == f"maintain {GONE} apart, {GONE}."


def test_what_points_to_a_secret_stays():
    spec = {
        "auth": {"secretRef": {"name": "tokens", "key": "secret"}},
        "dependencies": {"redis": {"passwordSecretRef": {"name": "redis-login", "key": "password"}}},
        "volumes": [{"name": "secret-0", "secret": {"secretName": "tokens"}}],
        "automountServiceAccountToken": False,
        "metadata": {"annotations": {"chatcluster.dev/secrets-hash": "0123456789"}},
        "message": "waiting for Secrets: tokens",
        "config.toml": 'secret_file = "/etc/chatcluster-secrets/tokens/secret"',
        "image": f"registry.example/chat@sha256:{'0a' * 32}",
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    assert sorted(secrets_of(spec)) == ["redis-login", "tokens", "tokens"]
    found = json.loads(bundled([("x.json", spec)], keep=secrets_of(spec))["report/x.json"])
    assert found == spec


def test_copies_of_what_was_applied_are_left_out():
    head = {"managedFields": [1], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "a": "b"}}
    found = json.loads(bundled([("x.json", {"metadata": head})])["report/x.json"])
    assert found == {"metadata": {"annotations": {"a": "b"}}}


def test_the_manifest_lists_every_file_with_its_sum():
    found = bundled([("a.json", {"x": 1}), ("logs/p/c.log", "token=abcdefgh")])
    manifest = json.loads(found.pop("report/manifest.json"))
    assert {f"report/{one['name']}": one["sha256"] for one in manifest["files"]} == {
        name: hashlib.sha256(text.encode()).hexdigest() for name, text in found.items()
    }
    assert manifest["redaction"] == {"places": 1, "differentValues": 1, "notRemembered": 0}


def test_thousands_of_secrets_in_a_long_log_take_seconds_and_the_rest_is_counted():
    lines = [f"n={number} token={hash_of(number)} and {hash_of(number)}" for number in range(3000)]
    began = time.monotonic()
    found = bundled([("logs/p/c.log", "\n".join(lines[:2500])), ("logs/q/c.log", "\n".join(lines))])
    assert time.monotonic() - began < 60
    assert hash_of(1) not in found["report/logs/p/c.log"]
    assert all(f"token={hash_of(number)}" not in found["report/logs/q/c.log"] for number in range(3000))
    assert json.loads(found["report/manifest.json"])["redaction"]["notRemembered"] == 1500


def hash_of(number):
    return hashlib.sha1(str(number).encode()).hexdigest()


def test_a_log_is_cut_at_a_line():
    log = b"password=" + b"x" * LARGEST + b"\nlast line\n"
    assert newest(log) == "last line\n"
    assert newest(b"short\n") == "short\n"


@pytest.mark.parametrize(
    ("key", "is_one"),
    [
        ("password", True), ("REDIS_PASSWORD", True), ("apiKey", True), ("clientSecret", True), ("password_2", True),
        ("passwordSecretRef", False), ("secretName", False), ("password_file", False), ("secrets-hash", False),
        ("key", False), ("tokenReviewer", False), ("sasl.jaas.config", True),
    ],
)  # fmt: skip
def test_which_keys_hold_secrets(key, is_one):
    assert sensitive_key(key) is is_one
