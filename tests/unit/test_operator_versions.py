"""Which version is newer."""

from __future__ import annotations

import itertools

import pytest

from chatcluster_operator.versions import order

RISING = [
    "0.9.9", "1.0.0-1", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11",
    "1.0.0-rc.1", "1.0.0", "1.0.2", "1.0.10", "1.9.0", "1.10.0", "2.0.0-rc.1", "2.0.0", "10.0.0",
]  # fmt: skip
"""Most of them from the document itself."""


def test_versions_are_in_the_order_of_semantic_versioning():
    for lower, higher in itertools.combinations(RISING, 2):
        assert order(lower) < order(higher), (lower, higher)


def test_how_it_was_built_does_not_count():
    assert order("1.0.0+linux-1.2") == order("1.0.0")
    assert order("1.0.0-rc.1+7") == order("1.0.0-rc.1")


@pytest.mark.parametrize("text", ["", "1.0", "latest", "0123456789", "1.0.0.0", "v1.0.0"])
def test_what_is_no_version_has_no_place(text):
    """An image's hash may be of digits alone."""
    assert order(text) is None
