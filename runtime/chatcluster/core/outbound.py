"""Bytes toward clients: one whole WebSocket message, built once and handed to many sockets.

Pure: knows the wire of RFC 6455 section 5.2 for an unmasked server frame, and nothing of connections.
"""

from __future__ import annotations

_SHORT = 126
_MEDIUM = 1 << 16
_TEXT = 0x81  # FIN and opcode 1
_BINARY = 0x82  # FIN and opcode 2


def frame_bytes(payload: bytes, text: bool) -> bytes:
    """One unfragmented, unmasked message. ``text``: the opcode; the caller vouches for UTF-8."""
    first = _TEXT if text else _BINARY
    size = len(payload)
    if size < _SHORT:
        return bytes((first, size)) + payload
    if size < _MEDIUM:
        return bytes((first, 126, size >> 8, size & 0xFF)) + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload
