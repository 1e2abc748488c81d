"""How ``chatcluster channel`` and ``members`` reach the server API: address, key, errors in words."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import aiohttp
import click

from chatcluster.app.tokens import API_KEY

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 6
"""Tries of one call while the server says that trying again may help."""
TIMEOUT = 120.0
"""Seconds for one call: ten thousand members are written within it."""


class ApiError(click.ClickException):
    """The server API's no, in its own words."""


class AdminApi:
    """Calls of the management port. Every call is idempotent, so each is repeated while it may help."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base.rstrip("/") + "/api/v1"

    async def call(self, method: str, path: str, *, query: dict[str, str] | None = None, body: Any = None) -> Any:
        """The decoded answer (None when it is empty). Raises ``ApiError``."""
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._session.request(method, self._base + path, params=query, json=body) as response:
                    text = await response.text()
                    if response.status < 400:
                        return json.loads(text) if text else None
                    error = _error(response.status, text)
                    again = response.status in (429, 503, 504)
                    pause = _after(response)
            except (aiohttp.ClientConnectionError, TimeoutError) as problem:
                error = ApiError(f"the server API does not answer at {self._base}: {problem or 'timeout'}")
                again, pause = not isinstance(problem, aiohttp.ClientConnectorError), 0.0
            if not again or attempt >= ATTEMPTS:
                raise error
            await asyncio.sleep(pause or min(5.0, 0.2 * 2**attempt))


def in_path(name: str) -> str:
    """``name`` as one segment of a path."""
    return quote(name, safe="")


def options(run: Callable[P, Coroutine[Any, Any, T]]) -> Callable[..., T]:
    """Adds --management, --key and --data to a command and hands it an ``AdminApi`` as first argument."""

    @click.option("--management", default="http://127.0.0.1:8081", show_default=True, help="The management port.")
    @click.option("--key", envvar="CHATCLUSTER_API_KEY", help="The API key; default: the data folder's.")
    @click.option(
        "--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="The data folder."
    )
    @functools.wraps(run)
    def wrapper(management: str, key: str | None, data: Path, *args: Any, **kwargs: Any) -> T:
        async def inside() -> T:
            headers = {"Authorization": f"Bearer {key or _read(data)}"}
            timeout = aiohttp.ClientTimeout(total=TIMEOUT)
            async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
                return await run(AdminApi(session, management), *args, **kwargs)  # type: ignore[arg-type]

        return asyncio.run(inside())

    return wrapper


def _read(data: Path) -> str:
    try:
        return (data / API_KEY).read_text().strip()
    except FileNotFoundError:
        raise click.UsageError(
            f"no API key at {data / API_KEY}: `chatcluster dev` creates one in its data folder; or give --key"
        ) from None


def _error(status: int, text: str) -> ApiError:
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if isinstance(said, dict):
        inner = said.get("error", said)
        if isinstance(inner, dict):
            return ApiError(f"{inner.get('code', status)}: {inner.get('message', text[:200])}")
        return ApiError(f"{inner}: {said.get('message', '')}".rstrip(": "))
    return ApiError(f"the server API answered {status}: {text[:200]}")


def _after(response: aiohttp.ClientResponse) -> float:
    after = response.headers.get("Retry-After", "")
    return float(after) if after.isdecimal() else 0.0
