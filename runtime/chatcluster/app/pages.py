"""The chat page's files as the gateway serves them: by path. Knows no socket."""

from __future__ import annotations

from importlib.resources import files

from chatcluster.services.gateway.pages import Page

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def load_pages() -> dict[str, Page]:
    """Every file of ``app/web`` by its path from ``/``; the page itself is at ``/`` too. Read once, at start."""
    pages: dict[str, Page] = {}
    for file in files("chatcluster.app").joinpath("web").iterdir():
        content_type = _TYPES.get(file.name.rpartition(".")[2])
        if content_type is not None:
            pages[f"/{file.name}"] = (content_type, file.read_bytes(), ())
    pages["/"] = pages["/index.html"]
    pages["/favicon.ico"] = pages["/icon.svg"]  # browsers ask for it on their own, and take the content type's word
    return pages
