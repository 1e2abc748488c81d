"""How a node is entered: password files and TLS, the same for both kinds of connection. Says no secret."""

from __future__ import annotations

import ssl
from pathlib import Path

from redis.credentials import CredentialProvider

from chatcluster.backends.redis.settings import RedisSettings


def read_password(file: str) -> str:
    """The password in a file, without the line's end; "" where no file is named. Raises ``OSError``."""
    return Path(file).read_text(encoding="utf-8").strip() if file else ""


class FilePassword(CredentialProvider):
    """Reads the password at every connect: it may be changed while we run."""

    def __init__(self, username: str, file: str) -> None:
        self._username = username
        self._file = file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = read_password(self._file)
        return (self._username, password) if self._username else (password,)


def credentials(settings: RedisSettings) -> FilePassword | None:
    """What redis-py asks at each connect; None where the servers want none."""
    return FilePassword(settings.username, settings.password_file) if settings.password_file else None


def tls_context(settings: RedisSettings) -> ssl.SSLContext | None:
    """For the bus's own connections. Raises ``OSError`` where a file cannot be read."""
    if not settings.tls:
        return None
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.ca_file or None)
    context.check_hostname = settings.verify_names
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file or None)
    return context


def tls_arguments(settings: RedisSettings) -> dict[str, object]:
    """The same for redis-py."""
    if not settings.tls:
        return {}
    return {
        "ssl": True,
        "ssl_ca_certs": settings.ca_file or None,
        "ssl_certfile": settings.cert_file or None,
        "ssl_keyfile": settings.key_file or None,
        "ssl_check_hostname": settings.verify_names,
    }
