"""The port ``Webhook`` over HTTP, signed as Standard Webhooks says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from chatcluster.app.address import guarded
from chatcluster.app.settings import BadSettings
from chatcluster.client.webhook import sign
from chatcluster.ports import Clock, Posted

_LATER = {408, 425, 429}
_LONGEST = 3600.0


def _check(url: str) -> None:
    """The URL is the operator's, never a user's. Raises ``BadSettings``; the URL may hold a secret: not in the text."""
    if not guarded(url):
        raise BadSettings("push.webhook_url: allowed: https://..., or http:// on loopback")


class HttpWebhook:
    """One POST per call: no redirect is followed, no answer's body is read, certificates are verified."""

    def __init__(self, session: aiohttp.ClientSession, url: str, secret_file: Path, clock: Clock) -> None:
        self._session = session
        self._url = url
        self._file = secret_file
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._secret = ""

    def secret(self) -> str:
        """The file's first secret, read again when it changed. A damaged new file leaves the old secret in force."""
        try:
            stat = self._file.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                first = self._file.read_text().split()[0]
                sign(first, "", 0, b"")
                self._secret, self._seen = first, seen
        except (OSError, ValueError, IndexError):
            if not self._secret:
                raise BadSettings("push.secret_file: allowed: lines of `whsec_` and base64, at least one") from None
        return self._secret

    async def post(self, id: str, body: bytes) -> Posted:  # noqa: A002
        timestamp = self._clock.now() // 1000
        headers = {
            "content-type": "application/json",
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self.secret(), id, timestamp, body),
        }
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                status, after = answer.status, _seconds(answer.headers.get("retry-after", ""))
                answer.close()  # the body is not ours to read
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Posted("later")
        if 200 <= status < 300:
            return Posted("taken")
        if status == 410:
            return Posted("gone")
        if status >= 500 or status in _LATER:
            return Posted("later", after)
        return Posted("refused")  # also a redirect


def _seconds(value: str) -> float:
    return min(float(value), _LONGEST) if value.isascii() and value.isdigit() and len(value) < 10 else 0.0


@asynccontextmanager
async def open_webhook(*, url: str, secret_file: Path, timeout: float, clock: Clock) -> AsyncIterator[HttpWebhook]:
    """Ready to post. Raises ``BadSettings``."""
    _check(url)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout), trust_env=False) as session:
        webhook = HttpWebhook(session, url, secret_file, clock)
        await asyncio.to_thread(webhook.secret)
        yield webhook
