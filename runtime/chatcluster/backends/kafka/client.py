"""The driver: how it is described to librdkafka, its password, its log lines, and whether brokers answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException

from chatcluster.backends.kafka.settings import KafkaSettings
from chatcluster.core.metrics import Metrics
from chatcluster.ports import Misconfigured

log = logging.getLogger(__name__)

PASSWORD_EVERY = 5.0
"""Seconds between looks at the password file."""
REPEAT_AFTER = 60.0
"""Seconds for which the same line of the driver is not logged again."""
_LOUD = {KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._FATAL}


class _Credentials(Protocol):
    def set_sasl_credentials(self, username: str, password: str) -> None: ...


class _Quiet(logging.Filter):
    """Lets a line of the driver through once a minute: it repeats itself at every try to connect."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        # fac, client, text: the kind of the line alone, as texts hold counts and times
        kind = str(record.args[0]) if isinstance(record.args, tuple) and record.args else str(record.msg)
        now = time.monotonic()
        if now - self._seen.get(kind, -REPEAT_AFTER) < REPEAT_AFTER:
            return False
        self._seen[kind] = now
        # The state of the brokers is told by Health, in one line per change: the driver's own lines are detail.
        record.levelno = min(record.levelno, logging.INFO)
        record.levelname = logging.getLevelName(record.levelno)
        return True


driver_log = logging.getLogger(f"{__name__}.driver")
if not driver_log.filters:
    driver_log.addFilter(_Quiet())


def tell(loop: asyncio.AbstractEventLoop, act: Callable[..., object], *arguments: object) -> None:
    """From a driver's thread: have the loop do something soon. A loop that is gone needs nothing told."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(act, *arguments)


def said(error: object) -> str:
    """An error in a few words, without values and secrets."""
    if isinstance(error, KafkaException) and error.args:
        error = error.args[0]
    if isinstance(error, KafkaError):
        if error.code() == KafkaError._AUTHENTICATION:
            return "the login was refused: see kafka.username, kafka.password_file and kafka.sasl_mechanism"
        return f"{error.name()}: {error.str()}"
    return type(error).__name__


def kafka_error(error: BaseException) -> KafkaError | None:
    """The driver's error inside its exception."""
    found = error.args[0] if isinstance(error, KafkaException) and error.args else None
    return found if isinstance(found, KafkaError) else None


def password(settings: KafkaSettings) -> str:
    """The password of now. Raises ``Misconfigured``."""
    try:
        return Path(settings.password_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"kafka.password_file = {settings.password_file!r}: cannot be read ({type(error).__name__}); "
            f"allowed: a text file that this process may read"
        ) from None


class Health:
    """Whether brokers answer one client: told in one line per change, and as a text for readiness."""

    def __init__(self, what: str, settings: KafkaSettings, metrics: Metrics, *, told: bool = True) -> None:
        self.problem = ""
        self._told = told
        self._what = what
        self._settings = settings
        self._password = password(settings) if settings.username else ""
        self._looked = time.monotonic()
        self._changes = metrics.counter("kafka_troubles_total", "Times that brokers stopped answering.", client=what)
        metrics.gauge("kafka_troubled", "1 while brokers do not answer.", lambda: bool(self.problem), client=what)

    def bad(self, text: str) -> None:
        """Something does not work."""
        if not self.problem:
            self._changes.add()
            if self._told:
                log.warning("kafka %s: %s", self._what, text)
        self.problem = text

    def good(self) -> None:
        """Something worked."""
        if self.problem:
            log.info("kafka %s: brokers answer again", self._what)
            self.problem = ""

    def on_error(self, error: KafkaError) -> None:
        """The driver's ``error_cb``: only what concerns all brokers counts; the loss of one is the driver's matter."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self.problem:
            return  # why was said before
        if error.fatal() or error.code() in _LOUD:
            self.bad(said(error))

    def refresh(self, *clients: _Credentials) -> None:
        """Of a client's thread, often: gives a changed password to all clients that this health is of."""
        if not self._settings.username or time.monotonic() - self._looked < PASSWORD_EVERY:
            return
        self._looked = time.monotonic()
        try:
            found = password(self._settings)
        except Misconfigured as error:
            self.bad(str(error))
            return
        if found != self._password:
            self._password = found
            for client in clients:
                client.set_sasl_credentials(self._settings.username, found)
            log.info("kafka %s: the password changed", self._what)


def describe(settings: KafkaSettings, health: Health) -> dict[str, Any]:
    """What every client says of itself to the driver. Raises ``Misconfigured``."""
    wanted: dict[str, Any] = {
        "bootstrap.servers": ",".join(settings.bootstrap_servers),
        "client.id": "chatcluster",
        "socket.timeout.ms": settings.socket_timeout_ms,
        "socket.connection.setup.timeout.ms": settings.connect_timeout_ms,
        "socket.keepalive.enable": True,
        "socket.nagle.disable": True,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": settings.reconnect_cap_ms,
        "topic.metadata.refresh.interval.ms": 30_000,
        "allow.auto.create.topics": False,
        "error_cb": health.on_error,
        "logger": driver_log,
    }
    secure = bool(settings.ca_file)
    if secure:
        wanted["ssl.ca.location"] = settings.ca_file
        wanted["ssl.endpoint.identification.algorithm"] = "https" if settings.verify_names else "none"
        if settings.cert_file:
            wanted["ssl.certificate.location"] = settings.cert_file
            wanted["ssl.key.location"] = settings.key_file or settings.cert_file
        for key in ("ca_file", "cert_file", "key_file"):
            path = getattr(settings, key)
            if path and not Path(path).is_file():
                raise Misconfigured(f"kafka.{key} = {path!r}: there is no such file; allowed: a file in PEM form")
    if settings.username:
        wanted["sasl.mechanism"] = settings.sasl_mechanism
        wanted["sasl.username"] = settings.username
        wanted["sasl.password"] = password(settings)
    wanted["security.protocol"] = {
        (False, False): "plaintext",
        (True, False): "ssl",
        (False, True): "sasl_plaintext",
        (True, True): "sasl_ssl",
    }[secure, bool(settings.username)]
    return wanted
