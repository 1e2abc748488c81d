"""Static pages."""

from __future__ import annotations

import re

from chatcluster.services.gateway.pages import Page, find, serve

PAGE: Page = ("text/html; charset=utf-8", b"<p>hello", [("X-Extra", "1")])


def etag(answer: bytes) -> str:
    found = re.search(rb'ETag: ("[0-9a-f]+")', answer)
    assert found is not None
    return found[1].decode()


def test_found_by_exact_path_in_a_table_or_by_a_function() -> None:
    assert find({"/": PAGE}, "/", {}) == PAGE
    assert find({"/": PAGE}, "//", {}) is None
    assert find(lambda path, headers: PAGE if path == "/x" else None, "/x", {}) == PAGE
    assert find(None, "/", {}) is None


def test_served_whole_with_safe_headers() -> None:
    top, _, body = serve(PAGE, None).partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"<p>hello"
    for line in (b"Content-Length: 8", b"X-Content-Type-Options: nosniff", b"Cache-Control: no-cache", b"X-Extra: 1"):
        assert line in top.split(b"\r\n")
    assert b"frame-ancestors 'none'" in top


def test_a_page_may_bring_its_own_policy() -> None:
    answer = serve(("text/html", b"", [("content-security-policy", "default-src 'none'")]), None)
    assert answer.lower().count(b"content-security-policy") == 1


def test_unchanged_is_not_sent_again() -> None:
    tag = etag(serve(PAGE, None))
    for offered in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        assert serve(PAGE, offered).startswith(b"HTTP/1.1 304 Not Modified")
        assert serve(PAGE, offered).endswith(b"\r\n\r\n")
    assert serve(PAGE, '"other"').startswith(b"HTTP/1.1 200")
    assert etag(serve(("a/b", b"<p>changed", []), None)) != tag
