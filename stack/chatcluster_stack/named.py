"""A stack by name: which groups it has, on which ports, kept in its run folder so that later commands find it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from chatcluster_stack.processes import Group, Node
from chatcluster_stack.servers import group, run_folder


class Unknown(Exception):
    """No stack, or no process, of this name; the text lists what there is."""


class Stack:
    """Groups of servers under one name."""

    def __init__(self, name: str, bases: dict[str, int]) -> None:
        self.name = name
        self.groups: dict[str, Group] = {kind: group(kind, name, base=base) for kind, base in bases.items()}
        self._bases = bases

    @classmethod
    def described(cls, name: str, kinds: Sequence[str], *, first_port: int) -> Stack:
        """A stack not started yet: each kind on ten ports of its own from ``first_port``."""
        return cls(name, {kind: first_port + 10 * place for place, kind in enumerate(kinds)})

    @classmethod
    def recorded(cls, name: str) -> Stack:
        """The stack that was started under this name. Raises ``Unknown``."""
        try:
            return cls(name, json.loads((run_folder(name) / "stack.json").read_text()))
        except FileNotFoundError:
            raise Unknown(f"no stack named {name!r} was started") from None

    @property
    def nodes(self) -> dict[str, Node]:
        """Every process by name."""
        return {name: node for one in self.groups.values() for name, node in one.nodes.items()}

    def node(self, name: str) -> Node:
        """One process. Raises ``Unknown``."""
        if name not in self.nodes:
            raise Unknown(f"no process {name!r}; there are {', '.join(self.nodes)}")
        return self.nodes[name]

    def start(self) -> None:
        """Starts what does not run; recorded first, so that ``stop`` finds what a failure left."""
        run_folder(self.name).mkdir(parents=True, exist_ok=True)
        (run_folder(self.name) / "stack.json").write_text(json.dumps(self._bases))
        for servers in self.groups.values():
            servers.start()

    def stop(self, *, wipe: bool = False) -> None:
        """Ends every process; data stays unless wiped."""
        for servers in reversed(self.groups.values()):
            servers.stop(wipe=wipe)
