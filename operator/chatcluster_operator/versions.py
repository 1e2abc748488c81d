"""Which of two versions is newer. Pure."""

from __future__ import annotations

import re

Order = tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]


def order(version: str) -> Order | None:
    """A version's place, to be compared (precedence of Semantic Versioning 2.0.0, section 11).

    None: it is no version. An image alone is neither newer nor older than another.
    """
    found = re.fullmatch(r"([0-9]+)\.([0-9]+)\.([0-9]+)(?:-([^+]*))?(?:\+.*)?", version)
    if found is None:
        return None
    *core, candidate = found.groups()
    numbers = tuple(map(int, core))
    if candidate is None:
        return numbers, ((2, 0, ""),)  # a release is after its candidates
    return numbers, tuple((0, int(one), "") if one.isdecimal() else (1, 0, one) for one in candidate.split("."))
