"""Secrets and certificates of the links: read when they are used, so that a changed file is a changed secret."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from chatcluster.ports import Misconfigured


def secret_of(file: str | None, section: str) -> bytes:
    """The secret in a file, empty without one. Raises ``Misconfigured``, which never quotes it."""
    if file is None:
        return b""
    try:
        secret = Path(file).read_bytes().strip()
    except OSError as error:
        raise Misconfigured(f"{section}.secret_file = {file!r}: {error.strerror}; allowed: a readable file") from None
    if len(secret) < 16:
        raise Misconfigured(f"{section}.secret_file = {file!r}: allowed: a secret of at least 16 characters")
    return secret


def client_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """For a connection that is about to be made; None: plain TCP. Raises ``OSError`` for files that do not do."""
    if ca is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    context.check_hostname = False  # addresses are pods': the authority is the platform's own, and so is the secret
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


class ServerCertificate:
    """The context of a listening socket; ``refresh`` loads a changed certificate into it for new handshakes."""

    def __init__(self, ca: str | None, cert: str | None, key: str | None) -> None:
        self._files = (cert, key, ca)
        self._seen: tuple[int, ...] = ()
        self.context: ssl.SSLContext | None = None
        if cert is None:
            if ca is not None:
                raise Misconfigured("link.ca_file: certificates are asked for over TLS only; link.cert_file is missing")
            return
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(cert, key)
            if ca is not None:
                context.load_verify_locations(ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise Misconfigured(f"link.cert_file = {cert!r}: {error.strerror or 'not a certificate'}") from None
        self.context = context
        self._seen = self._stamps()

    def refresh(self) -> bool:
        """Whether a changed certificate was loaded. A half-written one is left for the next time.

        A changed authority is believed beside the one before, until the process ends.
        """
        try:
            if self.context is None or (stamps := self._stamps()) == self._seen:
                return False
            cert, key, ca = self._files
            assert cert is not None
            # A certificate without its key would leave the context with neither: tried on another one first.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
            self.context.load_cert_chain(cert, key)
            if ca is not None:
                self.context.load_verify_locations(ca)
        except OSError:  # an SSLError is one, too
            return False
        self._seen = stamps
        return True

    def _stamps(self) -> tuple[int, ...]:
        return tuple(os.stat(file).st_mtime_ns for file in self._files if file is not None)
