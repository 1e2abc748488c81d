"""kopf as it really ends: what it takes along, and what it must not."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from chatcluster_operator.cache import Cache
from chatcluster_operator.handlers import watched
from chatcluster_operator.spec import GROUP, KIND, PLURAL, VERSION

ONE = {
    "apiVersion": f"{GROUP}/{VERSION}",
    "kind": KIND,
    "metadata": {"name": "main", "namespace": "team", "uid": "u", "resourceVersion": "7", "generation": 1},
    "spec": {},
}


def resource(name, kind, *, namespaced):
    verbs = ["get", "list", "watch", "patch"]
    return {"name": name, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": verbs}


class Server:
    """An API server that has ChatClusters, as far as kopf asks; ``breaks`` puts an error into its watches."""

    def __init__(self):
        self.lists = 0
        self.anew = asyncio.Event()
        self.breaks = asyncio.Event()

    async def versions(self, _):
        return web.json_response({"versions": ["v1"]})

    async def core(self, _):
        return web.json_response({"resources": [resource("namespaces", "Namespace", namespaced=False)]})

    async def groups(self, _):
        version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
        return web.json_response({"groups": [{"name": GROUP, "versions": [version], "preferredVersion": version}]})

    async def resources(self, _):
        return web.json_response({"resources": [resource(PLURAL, KIND, namespaced=True)]})

    async def objects(self, request):
        if "watch" not in request.query:
            self.lists += 1
            if self.lists > 1:
                self.anew.set()
            return web.json_response({"items": [ONE], "metadata": {"resourceVersion": "7"}})
        answer = web.StreamResponse()
        await answer.prepare(request)
        await self.breaks.wait()
        said = {"kind": "Status", "code": 500, "message": "the test says so"}
        await answer.write(json.dumps({"type": "ERROR", "object": said}).encode() + b"\n")
        return answer


@pytest.fixture
async def server(tmp_path, monkeypatch):
    found = Server()
    app = web.Application()
    app.add_routes(
        [
            web.get("/api", found.versions),
            web.get("/api/v1", found.core),
            web.get("/apis", found.groups),
            web.get(f"/apis/{GROUP}/{VERSION}", found.resources),
            web.get(f"/apis/{GROUP}/{VERSION}/{PLURAL}", found.objects),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "users": [{"name": "it", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("POD_ID", "it")
    yield found
    await runner.cleanup()


class Looks:
    """In place of the reconciler: which clusters are to be looked at, and in which loop that was said."""

    def __init__(self):
        self.cache = Cache()
        self.asked = asyncio.Queue()

    def look(self, key):
        self.asked.put_nowait((key, asyncio.get_running_loop()))


async def test_what_it_takes_for_fatal_ends_nothing_of_ours_and_begins_anew(server):
    looks = Looks()
    async with asyncio.timeout(60):
        kopf = asyncio.create_task(watched(looks, ()))
        assert await looks.asked.get() == (("team", "main"), asyncio.get_running_loop())
        assert looks.cache.clusters["team", "main"]["metadata"]["resourceVersion"] == "7"
        ours = asyncio.create_task(asyncio.sleep(60))  # it begins after kopf did
        server.breaks.set()
        await server.anew.wait()
        await looks.asked.get()
        assert not ours.done(), "kopf cancels what it finds in its loop"
        ours.cancel()
        kopf.cancel()
        with pytest.raises(asyncio.CancelledError):
            await kopf
