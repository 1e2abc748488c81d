"""Answers for pods that do not exist: ``/metrics`` on the management port of each pod's own address."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from control_plane import ControlPlane

PORT = 8081
Pod = Mapping[str, Any]


class Answering:
    """``say`` gives the metrics of a pod, or None for one that does not answer."""

    def __init__(self, plane: ControlPlane, namespace: str, say: Callable[[Pod], Mapping[str, float] | None]) -> None:
        self._plane, self._namespace, self._say = plane, namespace, say
        self._servers: dict[str, ThreadingHTTPServer] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="pod-metrics")
        self.pods: dict[str, Pod] = {}
        """By address."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(10)
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def _follow(self) -> None:
        while not self._over.wait(0.3):
            items = self._plane.get(f"/api/v1/namespaces/{self._namespace}/pods")["items"]
            self.pods = {pod["status"]["podIP"]: pod for pod in items if pod["status"].get("podIP")}
            for address in self.pods.keys() - self._servers.keys():
                self._listen(address)

    def _listen(self, address: str) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pod = outer.pods.get(address)
                told = None if pod is None else outer._say(pod)
                if told is None:
                    self.send_error(503)
                    return
                text = "".join(f"# TYPE {name} gauge\n{name} {value}\n" for name, value in told.items()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer((address, PORT), Handler)
        self._servers[address] = server
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()


@contextmanager
def answering(
    plane: ControlPlane, namespace: str, say: Callable[[Pod], Mapping[str, float] | None]
) -> Iterator[Answering]:
    """For the time of the block."""
    found = Answering(plane, namespace, say)
    found.start()
    try:
        yield found
    finally:
        found.stop()
