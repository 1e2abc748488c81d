"""What one incoming frame costs, and what one idle connection holds: our parser and ``websockets``' one.

``python bench/frames.py`` measures both in turn in one run and prints medians. See docs/adr/0008.
"""

from __future__ import annotations

import time
import tracemalloc
from statistics import median

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from chatcluster.services.gateway.parser import Parser

BODY = b'{"type":"send","rid":"1","channel":"c","client_id":"k","body":"' + b"x" * 130 + b'"}'
FRAME = Frame(Opcode.TEXT, BODY).serialize(mask=True)
COUNT = 20_000
TURNS = 7


def upgraded() -> ServerProtocol:
    """A ``ServerProtocol`` after its handshake."""
    protocol = ServerProtocol(max_size=65536)
    request = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    protocol.receive_data(request + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
    (event,) = protocol.events_received()
    assert isinstance(event, Request)
    protocol.send_response(protocol.accept(event))
    protocol.data_to_send()
    assert protocol.state is OPEN
    return protocol


def theirs() -> float:
    """µs for one frame through ``ServerProtocol``."""
    protocol = upgraded()
    begin = time.process_time()
    for _ in range(COUNT):
        protocol.receive_data(FRAME)
        (frame,) = protocol.events_received()
        assert isinstance(frame, Frame)
    return (time.process_time() - begin) / COUNT * 1e6


def ours() -> float:
    """µs for one frame through our parser."""
    parser = Parser(65536, 1024)
    begin = time.process_time()
    for _ in range(COUNT):
        parser.feed(FRAME)
        assert parser.next() is not None
        assert parser.next() is None
    return (time.process_time() - begin) / COUNT * 1e6


def held(make: type[Parser] | None) -> float:
    """Bytes that one idle object holds."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = [upgraded() if make is None else make(65536, 1024) for _ in range(1000)]
    each = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    tracemalloc.stop()
    return each


if __name__ == "__main__":
    pairs = [(ours(), theirs()) for _ in range(TURNS)]
    mine, other = (median(pair[side] for pair in pairs) for side in (0, 1))
    print(f"one {len(FRAME)}-byte frame: ours {mine:.1f} µs, ServerProtocol {other:.1f} µs")
    print(f"ratio, turn by turn: {median(b / a for a, b in pairs):.1f}")
    print(f"held while idle: ours {held(Parser):,.0f} bytes, ServerProtocol {held(None):,.0f} bytes")
