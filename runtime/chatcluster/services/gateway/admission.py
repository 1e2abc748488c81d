"""Who may come in: counts and rates, before a byte of a newcomer is believed.

Law 7: every buffer is bounded, and over the bound the *newcomer* is refused. Knows addresses and numbers;
no sockets. Times are monotonic seconds, randomness an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from chatcluster.core.metrics import Metrics
from chatcluster.services.gateway.handshake import HttpRefusal
from chatcluster.services.gateway.settings import GatewaySettings


class Bucket:
    """A token bucket that starts full."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Admission:
    """The counts of one gateway. Every ``enter`` is matched by one ``leave``."""

    def __init__(self, settings: GatewaySettings, metrics: Metrics, now: float, random: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        self._bucket = Bucket(settings.handshakes_per_second, settings.handshake_burst, now)
        self._per_address: dict[str, int] = {}
        self.sockets = 0
        self.preauth = 0
        self._refused = {
            reason: metrics.counter("gateway_refused_total", "Sockets refused by admission", reason=reason)
            for reason in ("sockets", "preauth", "address", "rate", "draining")
        }
        metrics.gauge("gateway_sockets", "Open sockets", lambda: self.sockets)
        metrics.gauge("gateway_sockets_preauth", "Open sockets without a valid hello", lambda: self.preauth)

    def enter(self, address: str) -> HttpRefusal | None:
        """A socket was accepted; it counts from now on, also when the answer is a refusal."""
        settings = self._settings
        of_address = self._per_address.get(address, 0)
        self.sockets += 1
        self.preauth += 1
        self._per_address[address] = of_address + 1
        if self.sockets > settings.max_sockets:
            return self._refuse("sockets", HTTPStatus.SERVICE_UNAVAILABLE)
        if self.preauth > settings.preauth_sockets:
            return self._refuse("preauth", HTTPStatus.SERVICE_UNAVAILABLE)
        if 0 < settings.preauth_per_address <= of_address:
            return self._refuse("address", HTTPStatus.TOO_MANY_REQUESTS)
        return None

    def upgrade(self, now: float) -> HttpRefusal | None:
        """A well-formed handshake asks to become a connection."""
        return None if self._bucket.take(now) else self._refuse("rate", HTTPStatus.SERVICE_UNAVAILABLE)

    def draining(self) -> HttpRefusal:
        """The refusal of a gateway that is leaving."""
        return self._refuse("draining", HTTPStatus.SERVICE_UNAVAILABLE)

    def authenticated(self, address: str) -> None:
        """A socket said a valid hello: it leaves the pre-auth counts."""
        self.preauth -= 1
        left = self._per_address[address] - 1
        if left:
            self._per_address[address] = left
        else:
            del self._per_address[address]

    def leave(self, address: str | None) -> None:
        """A socket is gone. ``address``: of one that never authenticated, else None."""
        if address is not None:
            self.authenticated(address)
        self.sockets -= 1

    def _refuse(self, reason: str, status: HTTPStatus) -> HttpRefusal:
        self._refused[reason].add()
        low, high = self._settings.retry_after
        # Jittered: a crowd that is sent away together must not come back together.
        after = low + int(self._random() * (high - low + 1))
        return HttpRefusal(status, "try again later", [("Retry-After", str(after))])
