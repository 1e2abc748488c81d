"""The command line of the stack, on processes that cost nothing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from chatcluster_stack.__main__ import main
from chatcluster_stack.named import Stack
from chatcluster_stack.ports import block
from chatcluster_stack.status import table

pytestmark = pytest.mark.slow


def shown(stack: Stack) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(stack))
    return console.export_text()


def test_status_tells_ready_paused_and_down(
    redis_nodes: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATCLUSTER_CACHE", str(tmp_path))
    stack = Stack.described("named", ["redis2"], first_port=block([0]))
    try:
        stack.start()
        assert shown(stack).count("ready") == 2
        main(["--name", "named", "fault", "redis-1", "pause"])
        main(["--name", "named", "fault", "redis-2", "kill"])
        text = shown(Stack.recorded("named"))
        assert "paused" in text
        assert "down" in text
        with pytest.raises(SystemExit, match="no process 'redis-9'"):
            main(["--name", "named", "fault", "redis-9", "kill"])
    finally:
        stack.stop(wipe=True)
    assert all(node.pid is None for node in stack.nodes.values())


def test_an_unknown_stack_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATCLUSTER_CACHE", str(tmp_path))
    with pytest.raises(SystemExit, match="no stack named 'nowhere'"):
        main(["--name", "nowhere", "status"])
