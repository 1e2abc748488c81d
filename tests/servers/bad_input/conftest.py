"""The table of bad input against a real server, row by row: one named error each, and nothing else happens.

After every test the process is alive and serves, its memory is flat, and neither a reply nor its output holds a
stack trace or a secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from wires import OPEN_TIMEOUT, WITHDRAWN, eventually, group, history

GROWTH = 24 * 1024
"""KiB that the process may grow by over the whole module: caches fill, connections' pages stay."""


@pytest.fixture(scope="module")
def server(serve: Any) -> Any:
    """One server for all rows that need no settings of their own. Ten members make a channel large."""
    server = serve(
        env={
            "ROUTING__INBOX_FANOUT_LIMIT": "10",
            "ROUTING__HYSTERESIS": "2",
            "GATEWAY__ORIGINS": "https://app.example",
            "GATEWAY__OPEN_TIMEOUT": str(OPEN_TIMEOUT),
            "SESSIONS__SESSIONS_PER_USER": "100",
            **WITHDRAWN,
        }
    )
    for number in range(3):  # what is loaded late is loaded now
        ann = server.sign_in("ann")
        group(ann, f"warm-{number}", ["bob"])
    server.hang_up()
    server.base = server.rss()
    return server


@pytest.fixture(autouse=True)
def unharmed(server: Any) -> Iterator[None]:
    """What every row promises besides its error."""
    yield
    heard = b"".join(bytes(wire.heard) for wire in server.wires)
    server.hang_up()
    assert server.alive
    witness = server.sign_in("witness")
    channel = group(witness, "witness", ["bob"])
    client_id = os.urandom(8).hex()
    # A disk that stands still for a second is answered with `overloaded`: then the witness asks again, as clients do.
    again = {"channel": channel, "client_id": client_id, "body": "still here", "retry": True}
    assert eventually(lambda: witness.ask("send", **again)["type"] == "ack")
    assert eventually(lambda: client_id in {m["client_id"] for m in history(witness, channel)})
    assert server.rss() < server.base + GROWTH
    server.hang_up()
    secrets_ = [server.key.hex(), (server.data / "api.key").read_text().strip(), "eyJ"]
    for said in (heard.decode(errors="replace"), server.output()):
        for never in ("Traceback", 'File "', ".py", "never retrieved", *secrets_):
            assert never not in said, (never, said[-2000:])
