"""Static pages on the public port: the web client and its module. Pure: a page in, an answer out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

from chatcluster.services.gateway.handshake import answer

Page = tuple[str, bytes, Sequence[tuple[str, str]]]
"""Content type, body, extra headers."""

Pages = Mapping[str, Page] | Callable[[str, Mapping[str, str]], Page | None]
"""By exact path; a function gets the request's headers (lower-case names) too."""

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; connect-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def find(pages: Pages | None, path: str, headers: Mapping[str, str]) -> Page | None:
    """The page at ``path``; None: there is none for this request."""
    if pages is None:
        return None
    return pages(path, headers) if callable(pages) else pages.get(path)


def serve(page: Page, if_none_match: str | None) -> bytes:
    """200 with the page, or 304. Always revalidated (no-cache): a new release shows at once."""
    content_type, body, extra = page
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = [("ETag", etag), ("Cache-Control", "no-cache"), ("Referrer-Policy", "no-referrer")]
    if not any(name.lower() == "content-security-policy" for name, _ in extra):
        headers.append(("Content-Security-Policy", CONTENT_SECURITY_POLICY))
    headers.extend(extra)
    offered = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    status = HTTPStatus.NOT_MODIFIED if etag in offered or offered == ["*"] else HTTPStatus.OK
    return answer(status, body, content_type=content_type, headers=headers)
