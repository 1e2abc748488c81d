"""More than anybody may send."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import suppress
from typing import Any

import pytest

from wires import PING, PONG, cpu, eventually, group


def test_second_hello(server: Any) -> None:
    ann = server.sign_in("ann")

    again = ann.ask("hello", token=server.token("bob"))

    assert (again["type"], again["code"]) == ("error", "already_authenticated")
    assert ann.ask("channels")["type"] == "reply"


def test_follows_have_an_end(server: Any) -> None:
    """The twenty-first is ``too_many``, and 10^5 more change nothing: they are read slowly, then cut off by us."""
    ann = server.sign_in("ann")
    channels = [group(ann, f"follow-{n}", [f"f{m}" for m in range(10)]) for n in range(21)]
    # Told in her inbox, not only stored: a session that hears of a route follows by itself.
    while {event["channel"] for event in ann.others if event.get("kind") == "route"} < set(channels):
        ann.others.append(ann.next())
    fresh = server.sign_in("ann", resume={})  # names none: follows none by itself
    for channel in channels:
        fresh.ask("unfollow", channel=channel)
    answers = [fresh.ask("follow", channel=channel) for channel in channels]
    assert [answer.get("code") for answer in answers] == [None] * 20 + ["too_many"]

    flood = b"".join(
        masked(json.dumps({"type": "follow", "rid": f"f{n}", "channel": channels[20]}).encode()) for n in range(100_000)
    )
    fresh.socket.settimeout(2.0)
    sent = 0
    with suppress(TimeoutError):
        while sent < len(flood):
            sent += fresh.socket.send(flood[sent : sent + 65536])
    assert sent < len(flood)  # it is not read as fast as it comes: TCP pushes back
    fresh.socket.settimeout(10.0)
    for _ in range(200):
        answer = fresh.until(lambda message: message.get("rid", "").startswith("f"))
        assert answer["code"] == "too_many"


def masked(payload: bytes) -> bytes:
    """A short text frame, its mask zero."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + payload


def test_ten_thousand_messages_in_a_second(server: Any) -> None:
    """``rate_limited`` says when to come back; what was acked is there once, what was refused is not."""
    flooder = server.sign_in("flooder")
    channel = group(flooder, "flood", ["bob"])

    def message(number: int) -> bytes:
        return masked(
            json.dumps(
                {"type": "send", "rid": f"s{number}", "channel": channel, "client_id": f"s{number}", "body": "b"}
            ).encode()
        )

    flooder.socket.sendall(b"".join(message(number) for number in range(200)))
    answers = {}
    while len(answers) < 200:
        answer = flooder.until(lambda frame: frame.get("rid", "").startswith("s"))
        assert answer["rid"] not in answers, "one answer each"
        answers[answer["rid"]] = answer
    acked = {rid for rid, answer in answers.items() if answer["type"] == "ack"}
    refused = {rid: answer for rid, answer in answers.items() if answer["type"] == "error"}
    assert 40 <= len(acked) < 120
    assert {(answer["code"], answer["retryable"]) for answer in refused.values()} == {("rate_limited", True)}
    assert all(answer["retry_after_ms"] > 0 for answer in refused.values())
    assert eventually(lambda: {m["client_id"] for m in history_all(server, channel)} == acked)

    flood = b"".join(message(number) for number in range(200, 10_200))
    flooder.socket.settimeout(1.0)
    sent = 0
    before = cpu(server)
    with suppress(TimeoutError):
        while sent < len(flood):
            sent += flooder.socket.send(flood[sent : sent + 65536])
    time.sleep(1.0)
    assert cpu(server) - before < 1.5  # read at its rate, whatever is sent
    bystander = server.sign_in("bystander")
    began = time.monotonic()
    bystander.pong()
    assert time.monotonic() - began < 1.0


def history_all(server: Any, channel: str) -> list[dict[str, Any]]:
    """By the server API, above rates."""
    found: list[dict[str, Any]] = []
    before = ""
    key = (server.data / "api.key").read_text().strip()
    while True:
        url = f"{server.management}/api/v1/channels/{channel}/messages?limit=100{before}"
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"}), timeout=10
        ) as answer:
            page = json.loads(answer.read())
        found = page["messages"] + found
        if not page["more"]:
            return found
        before = f"&before={page['messages'][0]['id']}"


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_ping_flood_is_cut(server: Any, opcode: int) -> None:
    ann = server.sign_in("ann")

    with suppress(ConnectionError):
        ann.socket.sendall((bytes([0x80 | opcode, 0x80]) + b"\0\0\0\0") * 10_000)

    assert ann.close_code() == 1008


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "watch", "users": [f"u{n}" for n in range(501)]}, "too_many"),
        ({"type": "watch", "users": [f"u{n}" for n in range(1001)]}, "bad_request"),
        (
            {"type": "channel.create", "client_id": "i", "kind": "group", "members": [f"u{n}" for n in range(1001)]},
            "bad_request",
        ),
        ({"type": "sync", "channels": {f"c{n}": "x" for n in range(1001)}}, "bad_request"),
    ],
)
def test_lists_have_an_end(server: Any, message: dict[str, Any], code: str) -> None:
    ann = server.sign_in("ann")

    assert (
        ann.ask(message["type"], **{name: value for name, value in message.items() if name != "type"})["code"] == code
    )
