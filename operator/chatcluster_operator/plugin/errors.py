"""What went wrong, as one line and an exit code. People see no traceback."""

from __future__ import annotations

FAILED, USAGE, NOT_FOUND, FORBIDDEN, IMPOSSIBLE, UNREACHABLE, TIMED_OUT = range(1, 8)
"""Exit codes (docs/kubectl-chat.md)."""


class Failure(Exception):
    """A line for stderr, and the exit code."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


class NotFound(Failure):
    """What was named is not there."""

    def __init__(self, text: str) -> None:
        super().__init__(text, NOT_FOUND)


class Forbidden(Failure):
    """The user lacks a right."""

    def __init__(self, text: str) -> None:
        super().__init__(text, FORBIDDEN)
