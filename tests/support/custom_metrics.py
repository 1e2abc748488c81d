"""A metrics API for the real HPA controller: ``custom.metrics.k8s.io`` of pods, aggregated by the API server."""

from __future__ import annotations

import json
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from control_plane import ControlPlane

GROUP = "custom.metrics.k8s.io"
VERSION = f"{GROUP}/v1beta2"
SERVICE = "/api/v1/namespaces/default/services/custom-metrics"
REGISTERED = f"/apis/apiregistration.k8s.io/v1/apiservices/v1beta2.{GROUP}"
Say = Callable[[Mapping[str, Any], str], float | None]
"""A metric of a pod, by its name."""


def _answer(plane: ControlPlane, say: Say, path: str) -> dict[str, Any] | None:
    where = urllib.parse.urlsplit(path)
    parts = urllib.parse.unquote(where.path).strip("/").split("/")
    if where.path.rstrip("/") == f"/apis/{VERSION}":
        resource = {"name": "pods/*", "namespaced": True, "kind": "MetricValueList", "verbs": ["get"]}
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION, "resources": [resource]}
    if len(parts) != 8 or parts[3] != "namespaces" or parts[5:7] != ["pods", "*"]:
        return None
    namespace, metric = parts[4], parts[7]
    labels = urllib.parse.quote(urllib.parse.parse_qs(where.query).get("labelSelector", [""])[0])
    items = []
    for pod in plane.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={labels}")["items"]:
        value = say(pod, metric)
        if value is not None:
            head = {"kind": "Pod", "namespace": namespace, "name": pod["metadata"]["name"], "apiVersion": "/v1"}
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            metric_ = {"name": metric, "selector": None}
            items.append({"describedObject": head, "metric": metric_, "timestamp": stamp, "value": f"{value:.0f}"})
    return {"kind": "MetricValueList", "apiVersion": VERSION, "metadata": {}, "items": items}


@contextmanager
def custom_metrics(plane: ControlPlane, say: Say) -> Iterator[None]:
    """For the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = _answer(plane, say, self.path)
            raw = json.dumps(found or {"kind": "Status", "apiVersion": "v1", "code": 404, "status": "Failure"}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(plane.folder / "pki/api.crt", plane.folder / "pki/api.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        # No pod serves it: the API server goes where the Service's name points.
        plane.apply(
            SERVICE,
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "custom-metrics"},
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            },
        )
        plane.apply(
            REGISTERED,
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": f"v1beta2.{GROUP}"},
                "spec": {
                    "service": {"namespace": "default", "name": "custom-metrics", "port": server.server_address[1]},
                    "group": GROUP,
                    "version": "v1beta2",
                    "insecureSkipTLSVerify": True,
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                },
            },
        )
        yield
    finally:
        for path in (REGISTERED, SERVICE):
            if plane.get(path):
                plane.ask("DELETE", path)  # a group that does not answer holds up the end of every namespace
        server.shutdown()
        thread.join(10)
        server.server_close()
