from __future__ import annotations

import json

import jwt
import pytest

from chatcluster.app.address import Address
from chatcluster.app.demo import USERS, pages_with_demo
from chatcluster.app.pages import load_pages

KEY = b"k" * 32


def test_addresses() -> None:
    assert Address.parse("127.0.0.1:8080") == Address("127.0.0.1", 8080)
    assert Address.parse("[::1]:0").url("ws", 5) == "ws://[::1]:5"
    for wrong in ("8080", "host:", "host:x", "host:70000"):
        with pytest.raises(ValueError, match="not an address"):
            Address.parse(wrong)


def test_demo_users_get_tokens_and_nobody_else() -> None:
    find = pages_with_demo(load_pages(), KEY)
    local = {"host": "127.0.0.1:8080"}

    listed = find("/demo/users", local)
    assert listed is not None
    assert [entry["user"] for entry in json.loads(listed[1])] == list(USERS)
    page = find("/demo/token/ada", local)
    assert page is not None
    assert jwt.decode(json.loads(page[1])["token"], KEY, algorithms=["HS256"])["sub"] == "ada"
    assert ("Cache-Control", "no-store") in page[2]
    assert find("/demo/token/root", local) is None
    assert find("/", local) is not None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example:80", ""])
def test_a_foreign_name_that_points_here_gets_no_token(host: str) -> None:
    find = pages_with_demo(load_pages(), KEY)

    assert find("/demo/token/ada", {"host": host}) is None
    assert find("/demo/users", {"host": host}) is None
    assert find("/", {"host": host}) is not None


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "[::1]:8080", "127.0.0.1"])
def test_this_machine_has_several_names(host: str) -> None:
    assert pages_with_demo({}, KEY)("/demo/users", {"host": host}) is not None
