"""The command line of ``kubectl chat``: what it loads, what it takes, what it says."""

from __future__ import annotations

import argparse
import base64
import subprocess
import sys

import pytest

from chatcluster.app.clock import SystemClock
from chatcluster.core.codes import Refused
from chatcluster.services.gateway.auth import AuthSettings, TokenAuthenticator
from chatcluster.services.gateway.keys import SecretKeys
from chatcluster_operator.plugin.__main__ import parser
from chatcluster_operator.plugin.api import missing_right, path_of
from chatcluster_operator.plugin.edits import section_of
from chatcluster_operator.plugin.errors import Failure
from chatcluster_operator.plugin.tokens import duration, key_of, mint

_LOADED = """
import sys
from chatcluster_operator.plugin.__main__ import main
try:
    main({given!r})
except SystemExit:
    pass
print(sorted({{name.split(".")[0] for name in sys.modules}} & {heavy!r}), file=sys.stderr)
"""


@pytest.mark.parametrize("given", [["--help"], ["status", "--help"], ["drain"], []])
def test_help_and_mistakes_load_nothing_heavy(given):
    heavy = {"kubernetes", "pydantic", "kopf", "aiohttp", "yaml", "urllib3"}
    code = _LOADED.format(given=given, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_options_stand_before_and_after_the_command():
    made = parser()
    for given in (["-n", "team", "status", "main"], ["status", "main", "-n", "team"]):
        options = made.parse_args(given)
        assert (options.namespace, options.name, options.context) == ("team", "main", None)


def test_every_command_has_its_function():
    import importlib

    [commands] = [one for one in parser()._actions if isinstance(one, argparse._SubParsersAction)]
    assert sorted(commands.choices) == [
        "drain", "pause", "report", "restart", "resume", "status", "token", "undrain",
    ]  # fmt: skip
    for made in commands.choices.values():
        module, _, name = made.get_default("run").partition(":")
        assert callable(getattr(importlib.import_module(f"chatcluster_operator.plugin.{module}"), name))


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("PATCH", path_of("chatcluster.dev/v1", "chatclusters", "x", "main"), "patch chatclusters in namespace x: "),
        ("GET", path_of("v1", "pods", "x", "p", "log"), "get pods/log in namespace x: "),
        ("GET", path_of("v1", "pods"), "list pods in the whole cluster: "),
        ("GET", path_of("v1", "nodes", name="n"), "get nodes in the whole cluster: "),
        ("GET", path_of("apps/v1", "deployments", "x"), "ask for the verb list on deployments of group apps there"),
        ("GET", "/version", "as it was said"),
    ],
)  # fmt: skip
def test_a_missing_right_is_named(method, path, words):
    assert words in missing_right(method, path, "as it was said")


async def test_the_token_is_what_the_gateways_verify():
    key = bytes.fromhex("0f" * 32)
    auth = {"audience": "chat", "issuer": "https://id.example"}
    gateway = TokenAuthenticator(keys=SecretKeys(key), clock=SystemClock(), settings=AuthSettings(**auth))
    found = await gateway.verify(mint(key, auth, user="ann", tenant="acme", ttl=60))
    assert (found.user, found.tenant) == ("ann", "acme")
    assert 50 < found.expires - found.issued_at <= 60
    plain = TokenAuthenticator(keys=SecretKeys(key), clock=SystemClock())
    assert (await plain.verify(mint(key, {}, user="ann", tenant="acme", ttl=60))).user == "ann"
    for wrong in (
        mint(b"x" * 32, auth, user="ann", tenant="acme", ttl=60),
        mint(key, {}, user="a", tenant="t", ttl=60),
    ):
        with pytest.raises(Refused):
            await gateway.verify(wrong)


@pytest.mark.parametrize("value", ["", "zz", "ab" * 31, "secret"])
def test_a_key_that_is_none_is_said_and_not_quoted(value):
    secret = {"data": {"secret": base64.b64encode(value.encode()).decode()}}
    with pytest.raises(Failure, match="is no signing key") as raised:
        key_of(secret, {"name": "tokens", "key": "secret"})
    assert not value or value == "secret" or value not in str(raised.value)


def test_a_key_may_end_with_a_line():
    secret = {"data": {"k": base64.b64encode(b"ab" * 32 + b"\n").decode()}}
    assert key_of(secret, {"name": "tokens", "key": "k"}) == b"\xab" * 32
    with pytest.raises(Failure, match="the key other of the Secret tokens is not there"):
        key_of(secret, {"name": "tokens", "key": "other"})


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("30d", 2592000)])
def test_times(text, seconds):
    assert duration(text, "--ttl") == seconds


@pytest.mark.parametrize("text", ["", "0", "-1m", "1w", "1.5h", "soon", "9" * 30])
def test_what_is_no_time(text):
    with pytest.raises(Failure, match="--ttl"):
        duration(text, "--ttl")


def test_embedded_is_restarted_as_a_whole():
    one = {"metadata": {"name": "main"}, "spec": {"dependencies": {"embedded": {}}}}
    many = {"metadata": {"name": "main"}, "spec": {"dependencies": {"redis": {}}}}
    one["spec"]["dependencies"]["embedded"] = {"storage": "1Gi"}
    assert section_of(one, "embedded") == "gateway"
    assert section_of(many, "router") == "router"
    for cluster, component in ((one, "router"), (many, "embedded")):
        with pytest.raises(Failure, match="restart"):
            section_of(cluster, component)
