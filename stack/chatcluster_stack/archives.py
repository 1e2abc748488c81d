"""Class-data archives: a JVM that maps its classes instead of loading them starts in a third of the time.

Made once per cache by a throw-away start of the server. Whoever starts without one, or with one of another JVM or
other jars, starts slowly and just as well.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from chatcluster_stack import fetch
from chatcluster_stack.ports import Taken
from chatcluster_stack.processes import Group, NotReady

_QUIET = ["-Xlog:cds=off", "-Xlog:cds+dynamic=off"]


def path(server: str) -> Path:
    """Where the archive of ``kafka`` or of a Cassandra's release is, or would be."""
    return fetch.cache() / server / f"{server}.jsa"


def options(server: str) -> list[str]:
    """Of a JVM that starts with the archive; none where there is none."""
    archive = path(server)
    return ["-Xshare:auto", f"-XX:SharedArchiveFile={archive}", *_QUIET] if archive.exists() else []


def ensure(server: str, start: Callable[[Path, list[str]], Group]) -> None:
    """Makes the archive unless it is there, or was tried in vain.

    ``start``: a group of one node in a folder, whose JVM gets these options, not started yet.
    """
    archive, tried = path(server), path(server).with_suffix(".tried")
    if archive.exists() or tried.exists():
        return
    with fetch.locked(f"{server}-archive"):
        if archive.exists() or tried.exists():
            return
        tried.touch()
        new = archive.with_suffix(".new")
        new.unlink(missing_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="chatcluster-archive-"))
        try:
            with fetch.told(f"class-data archive of {server}, once"):
                one = start(folder, [f"-XX:ArchiveClassesAtExit={new}", *_QUIET])
                try:
                    for node in one.nodes.values():
                        node.start()
                        node.term(patience=90)
                finally:
                    one.stop(wipe=True)
            if new.exists():
                new.replace(archive)
        except (NotReady, Taken) as error:
            print(f"no class-data archive of {server}, starts stay slow: {error}", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
