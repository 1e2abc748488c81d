"""Processes by recorded pid: started apart from us, never confused with a stranger that got the same number."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}  # ours are reaped; a zombie would look alive to others


class NotReady(Exception):
    """A process ended, or did not answer in time; the text names its log."""


def started_at(pid: int) -> int | None:
    """Start time of a living process in ticks since boot (field 22 of /proc/PID/stat); None for none or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # The first thread may be a zombie while others of the process still end.
    return None if fields[0] in "ZX" and int(fields[17]) <= 1 else int(fields[19])


def wait_for(holds: Callable[[], bool], *, timeout: float, what: str, every: float = 0.05) -> None:
    """Waits until something holds; what it raises in the meantime counts as no, except ``NotReady``."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if holds():
                return
        except NotReady:
            raise
        except Exception as error:  # a server that starts refuses in many ways
            last: Exception | None = error
        else:
            last = None
        if time.monotonic() > deadline:
            raise NotReady(f"{what}: not within {timeout:g} s" + (f" ({last})" if last else ""))
        time.sleep(every)


def inherited() -> dict[str, str]:
    """Our environment without our own variables: a role takes every CHATCLUSTER_ for a setting of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHATCLUSTER_")}


class Node:
    """One process with a name, a folder for its data, a log and a pid file; every fault by name is a method."""

    def __init__(
        self,
        name: str,
        command: Sequence[str] | Callable[[], Sequence[str]],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
        ready: Callable[[], bool] | None = None,
        patience: float = 60.0,
    ) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / "log"
        self.data = folder / "data"
        self.environment = dict(environment or {})
        """Added to what is inherited; a change counts from the next start."""
        self.status: int | None = None
        """Exit status of the last process that we started ourselves; negative: ended by that signal."""
        self._command = command
        self._pid_file = folder / "pid"
        self._prepare = prepare
        self._ready = ready
        self._patience = patience

    @property
    def pid(self) -> int | None:
        """The living process; None when it is gone, also when its number now belongs to another."""
        try:
            recorded = json.loads(self._pid_file.read_text())
        except (OSError, ValueError):
            return None
        pid = int(recorded["pid"])
        if (child := _CHILDREN.get(pid)) is not None:
            if (status := child.poll()) is None:  # not reaped: the number is still its own
                return pid if started_at(pid) in {recorded["started"], None} else None
            self.status = status
            _CHILDREN.pop(pid, None)
        return pid if started_at(pid) == recorded["started"] else None

    def start(self, *, wait: bool = True) -> None:
        """Starts it unless it runs; with ``wait`` returns when it answers."""
        if self.pid is None:
            self.data.mkdir(parents=True, exist_ok=True)
            if self._prepare is not None:
                self._prepare()
            with self.log.open("ab") as log:
                child = subprocess.Popen(
                    list(self._command() if callable(self._command) else self._command),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env={**inherited(), **self.environment},
                    start_new_session=True,
                )
            _CHILDREN[child.pid] = child
            record = self._pid_file.with_suffix(".new")
            record.write_text(json.dumps({"pid": child.pid, "started": started_at(child.pid)}))
            record.replace(self._pid_file)
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Waits until it answers; raises at once when it has ended."""

        def holds() -> bool:
            if self.pid is None:
                raise NotReady(f"{self.name} ended while starting; see {self.log}")
            return self._ready is None or self._ready()

        wait_for(holds, timeout=self._patience, what=f"{self.name} (log: {self.log})")

    def answers(self) -> bool:
        """Whether it runs and answers now."""
        try:
            return self.pid is not None and (self._ready is None or self._ready())
        except Exception:  # as many kinds as there are servers
            return False

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._end(signal.SIGKILL, 10)

    def term(self, *, patience: float = 20.0) -> None:
        """SIGTERM, and SIGKILL after ``patience``; a paused one is woken first."""
        self.ask_to_leave()
        self._end(signal.SIGTERM, patience)

    def ask_to_leave(self) -> None:
        """SIGTERM, without waiting; a paused one is woken."""
        self._signal(signal.SIGTERM)
        self.resume()

    def pause(self) -> None:
        """SIGSTOP: connections stay, answers do not come."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Term, then start and wait."""
        self.term()
        self.start()

    def wipe(self) -> None:
        """Kills it and throws its data away: a new disk. It is not started again."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            with suppress(ProcessLookupError):  # gone since
                os.kill(pid, number)

    def _end(self, number: signal.Signals, patience: float) -> None:
        if number == signal.SIGKILL:
            self._signal(number)
        deadline = time.monotonic() + patience
        while self.pid is not None:
            if time.monotonic() > deadline:
                if number == signal.SIGKILL:
                    raise NotReady(f"{self.name} does not die")
                number = signal.SIGKILL
                self._signal(number)
                deadline = time.monotonic() + 10
            time.sleep(0.02)
        self._pid_file.unlink(missing_ok=True)


def together(what: Callable[[T], object], those: Iterable[T]) -> None:
    """Does it to each, all at the same time; raises the first of their errors when all have ended."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        for done in [pool.submit(what, one) for one in those]:
            done.result()


class Group:
    """Nodes that start and stop together."""

    def __init__(self, nodes: Sequence[Node], address: str) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.address = address
        """What a client is told: host:port, comma-separated; ``master@`` before it for sentinels."""

    def start(self) -> None:
        """Starts every node and returns when all answer."""
        together(lambda node: node.start(wait=False), self.nodes.values())
        for node in self.nodes.values():
            node.wait_ready()

    def stop(self, *, wipe: bool = False) -> None:
        """Ends every node; with ``wipe`` without ceremony and with its data."""
        together(Node.wipe if wipe else Node.term, self.nodes.values())
