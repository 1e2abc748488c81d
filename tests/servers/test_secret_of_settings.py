"""``chatcluster dev`` with a secret of the settings: the embedded platform of a cluster, whose tokens others sign."""

from __future__ import annotations

import pytest

from chatcluster.app.tokens import mint, read_key
from chatcluster.client import Client, Unauthorized

KEY = bytes(range(32))


async def test_tokens_are_verified_with_the_settings_secret_and_no_other(serve, tmp_path):
    file = tmp_path / "secret"
    file.write_text(KEY.hex() + "\n")
    server = serve("--no-demo", env={"AUTH__SECRET_FILE": str(file)})
    url = f"ws://127.0.0.1:{server.port}"
    async with Client(url, token=mint(KEY, user="ann"), device="phone") as ann:
        assert await ann.create_group(["bob"])
    with pytest.raises(Unauthorized):
        async with Client(url, token=mint(read_key(server.data / "signing.key"), user="ann"), device="phone"):
            pass


def test_a_secret_that_is_not_there_is_named(refused_start):
    assert "auth.secret_file: no signing key at /nowhere" in refused_start(env={"AUTH__SECRET_FILE": "/nowhere"})
