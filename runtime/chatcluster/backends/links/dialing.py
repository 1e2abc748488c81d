"""Keeping connections to every address of a service: names are looked up again, broken connections made again.

Knows how to shake hands; what is said afterwards is the ``Peer``'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Mapping
from typing import Any

from chatcluster.backends.links.security import client_context, secret_of
from chatcluster.backends.links.settings import LinkSettings
from chatcluster.backends.links.stream import CUT, Fence, Stream
from chatcluster.backends.links.wire import (
    NONCE,
    VERSION,
    Challenge,
    Facts,
    Goodbye,
    Hello,
    Kind,
    Ping,
    Welcome,
    decode_from_server,
    encode,
    proof,
    proven,
)
from chatcluster.core.backoff import delay
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Clock, Misconfigured

log = logging.getLogger("chatcluster.links")

Endpoint = tuple[str, int]


class Peer(Stream):
    """A connection to one server. ``ready`` once both have shaken hands; ``name`` is the server's."""

    def __init__(self, dialer: Dialer, secret: bytes) -> None:
        settings = dialer.settings
        super().__init__(decode_from_server, heartbeat=settings.heartbeat, silence=settings.silence, fence=dialer.fence)
        self._dialer = dialer
        self._secret = secret
        self._nonce = os.urandom(NONCE)
        self._challenge: Challenge | None = None
        self.name = ""
        self.instance = b""
        self.facts = Facts()
        self.ready = False
        self.leaving = False
        self.settled: asyncio.Future[None] = self._loop.create_future()

    def heard(self, message: Any) -> None:
        if self.ready:
            if type(message) is Ping:
                return
            if type(message) is Goodbye:
                self.leaving = True
                self._dialer.left(self)
            else:
                self.told(message)
        elif type(message) is Challenge and self._challenge is None:
            self._answer(message)
        elif type(message) is Welcome and self._challenge is not None:
            self._welcomed(message, self._challenge)
        elif type(message) is not Ping:
            self.end("it did not shake hands")

    def told(self, message: Any) -> None:
        """A message after the handshake."""
        raise NotImplementedError

    def _answer(self, challenge: Challenge) -> None:
        if challenge.kind != self._dialer.kind or challenge.version < 1:
            self.end(f"it is a {challenge.kind} of version {challenge.version}")
            return
        if len(challenge.nonce) != NONCE:
            self.end("it did not shake hands")
            return
        if not challenge.open and not self._secret:
            self.end("it asks for a secret; secret_file is not set")
            return
        self._challenge = challenge
        self.name = challenge.name
        self.instance = challenge.instance
        own = self._dialer.name
        shown = proof(self._secret, "client", challenge.nonce, self._nonce, own)
        self.say(encode(Hello(VERSION, self._dialer.kind, own, self._nonce, shown)))

    def _welcomed(self, welcome: Welcome, challenge: Challenge) -> None:
        expected = proof(self._secret, "server", self._nonce, challenge.nonce, challenge.name)
        if self._secret and not proven(expected, welcome.proof):
            self.end("it does not know the secret")
            return
        self.facts = welcome.facts
        problem = self._dialer.accepts(self)
        if problem is not None:
            self.end(problem)
            return
        self.believed(self._dialer.settings.max_buffer)
        self.ready = True
        self.settled.set_result(None)
        self._dialer.arrived(self)

    def ended(self, why: str) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
        if self.ready:
            self.ready = False
            self._dialer.lost(self, why)


class Dialer:
    """All connections to one service. Subclassed by the links, which are told who comes and goes."""

    def __init__(
        self,
        settings: LinkSettings,
        *,
        kind: Kind,
        section: str,
        name: str,
        clock: Clock,
        metrics: Metrics,
        make: Callable[[bytes], Peer],
    ) -> None:
        self.settings = settings
        self.fence = Fence(clock.monotonic, asleep=settings.asleep, act=self._slept)
        self.kind: Kind = kind
        self.name = name
        self.peers: dict[str, Peer] = {}  # ready ones, by the server's name
        self.fenced = False  # everything is being dropped: nothing goes anywhere
        self._addresses = [_parsed(address, section) for address in settings.addresses]
        self._section = section
        self._make = make
        self._dialing: dict[Endpoint, asyncio.Task[None]] = {}
        self._peers: dict[Endpoint, Peer] = {}  # in use, by where they were reached
        self._refused: dict[Endpoint, str] = {}
        self._vanished: set[Endpoint] = set()
        self._broken = metrics.counter("link_broken_total", "Connections that ended while they were in use.", to=kind)
        secret_of(settings.secret_file, section)
        if settings.ca_file is None and (settings.cert_file or settings.key_file):
            raise Misconfigured(f"{section}.ca_file is missing: {section}.cert_file is shown over TLS only")
        metrics.gauge("link_connections", "Connections that are ready.", lambda: float(len(self.peers)), to=kind)

    # -- what the links override -------------------------------------------------------------------------

    def accepts(self, peer: Peer) -> str | None:
        """None, or why this server is not to be used."""
        there = self.peers.get(peer.name)
        if there is not None and there.instance == peer.instance and not there.leaving:
            return "it is connected by another address"
        return None

    def arrived(self, peer: Peer) -> None:
        """A server can be used from now on."""
        older = self.peers.get(peer.name)
        self.peers[peer.name] = peer
        if older is not None and older is not peer:
            older.end("its server came back by the same name")
        log.info("connected to %s %s", self.kind, peer.name)

    def left(self, peer: Peer) -> None:
        """A server takes nothing new from now on."""

    def lost(self, peer: Peer, why: str) -> None:
        """A connection is over."""
        if self.peers.get(peer.name) is peer:
            del self.peers[peer.name]
        if not peer.leaving:
            self._broken.add()
            log.warning("lost %s %s: %s", self.kind, peer.name, why)

    def drop(self) -> None:
        """Drop everything that waits: this process slept."""

    def _slept(self) -> None:
        log.error("this process slept over %g s: connections are closed, what waited is dropped", self.settings.asleep)
        self._cut("this process slept")
        self.fenced = False

    def _cut(self, why: str) -> None:
        self.fenced = True
        self.drop()
        for peer in list(self.peers.values()):
            peer.leaving = True  # its loss is no news
            peer.end(why)

    def problems(self) -> str | None:
        """For readiness."""
        if any(not peer.leaving for peer in self.peers.values()):
            return None
        if not self.settings.addresses:
            return f"[{self._section}] addresses is empty"
        why = "; ".join(f"{host}:{port}: {text}" for (host, port), text in list(self._refused.items())[:3])
        return f"no {self.kind} is connected" + (f" ({why})" if why else "")

    # -- keeping them ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a connection to every address until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.fence.run())
            while True:
                wanted = await self._endpoints()
                for endpoint in wanted.keys() - self._dialing.keys():
                    self._dialing[endpoint] = group.create_task(self._keep(endpoint), name=f"link {endpoint}")
                self._vanished = set(self._dialing) - wanted.keys()
                for endpoint in self._vanished:
                    peer = self._peers.get(endpoint)
                    if peer is not None and not peer.leaving:
                        peer.leaving = True  # finish what is there, send nothing new
                        self.left(peer)
                await asyncio.sleep(self.settings.resolve_interval)

    async def _endpoints(self) -> Mapping[Endpoint, None]:
        found: dict[Endpoint, None] = {}
        for host, port, dns in self._addresses:
            if not dns:
                found[host, port] = None
                continue
            try:
                infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                # Names that cannot be looked up just now are no reason to leave anybody.
                found.update(dict.fromkeys(self._dialing))
                continue
            found.update({(str(info[4][0]), int(info[4][1])): None for info in infos})
        return found

    async def _keep(self, endpoint: Endpoint) -> None:
        attempt = 0
        peer: Peer | None = None
        try:
            while endpoint not in self._vanished:
                peer = await self._dial(endpoint)
                if peer is not None:
                    attempt = 0
                    self._refused.pop(endpoint, None)
                    self._peers[endpoint] = peer
                    await asyncio.shield(peer.over)
                    del self._peers[endpoint]
                await asyncio.sleep(delay(attempt, random.random, base=0.1, cap=2.0))
                attempt += 1
        finally:
            if peer is not None:
                peer.end("this process ends")
            self._dialing.pop(endpoint, None)
            self._refused.pop(endpoint, None)
            self._peers.pop(endpoint, None)

    async def _dial(self, endpoint: Endpoint) -> Peer | None:
        settings = self.settings
        peer: Peer | None = None
        try:
            made = peer = self._make(secret_of(settings.secret_file, self._section))
            context = client_context(settings.ca_file, settings.cert_file, settings.key_file)
            async with asyncio.timeout(settings.connect_timeout):
                await asyncio.get_running_loop().create_connection(
                    lambda: made,
                    *endpoint,
                    ssl=context,
                    server_hostname=endpoint[0] if context is not None else None,
                )
                await asyncio.shield(made.settled)
        except TimeoutError:
            reason = "no answer"
        except asyncio.CancelledError:
            if peer is not None:
                peer.end("this process ends")
            raise
        except Misconfigured as error:
            reason = str(error)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
        else:
            if made.ready:
                return made
            reason = made.over.result()
            if made.name and reason == CUT:
                reason = "it hung up on us: is the secret the same at both ends?"
        finally:
            if peer is not None and not peer.ready:
                peer.end("it did not answer in time")
        if self._refused.get(endpoint) != reason:
            self._refused[endpoint] = reason
            log.warning("%s at %s:%d: %s", self.kind, *endpoint, reason)
        return None

    def close(self) -> None:
        """End every connection, for good."""
        self._cut("this process ends")


def _parsed(address: str, section: str) -> tuple[str, int, bool]:
    """Host, port, and whether the host is a name of many. Raises ``Misconfigured``."""
    host, _, port = address.removeprefix("dns:").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise Misconfigured(f"{section}.addresses: {address!r} is none; allowed: host:port, or dns:name:port")
    return host.strip("[]"), int(port), address.startswith("dns:")
