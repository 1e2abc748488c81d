"""Whether what stands in the cluster is still what is wanted: a look writes only what drifted. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

MERGED = {
    "containers": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""Lists of a pod that the server merges by this key: what others put in, an apply of ours would leave there."""


def holds(wanted: Any, live: Any) -> bool:
    """Whether everything that is wanted stands there; what others added beside does not count.

    Of mappings every wanted key; of lists every item in the same order, and nothing else but where the server merges
    them (``MERGED``). What is empty, the server leaves out; a quantity it writes in its own way (``amount``).
    """
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(_holds_at(key, value, live) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(wanted) == len(live)
            and all(holds(one, other) for one, other in zip(wanted, live, strict=True))
        )
    if isinstance(wanted, str) and isinstance(live, str) and wanted != live:
        return amount(wanted) == amount(live) is not None
    return bool(wanted == live)


def _holds_at(key: str, wanted: Any, live: Mapping[str, Any]) -> bool:
    there = live.get(key)
    if key in MERGED and isinstance(there, list):
        ours = {one[MERGED[key]] for one in wanted or ()}
        there = [one for one in there if one.get(MERGED[key]) in ours]
    return not there if wanted in ({}, [], None) else key in live and holds(wanted, there)


_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_UNITS = {
    **{unit: Decimal(10) ** power for unit, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)},
    **{f"{unit}i": Decimal(2) ** (10 * power) for power, unit in enumerate("KMGTPE", start=1)},
}


def amount(text: str) -> Decimal | None:
    """A quantity's value, exactly: the server writes 1000m as 1 and 0.35 as 350m. None: it is none."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    number, unit = found.groups()
    return Decimal(number) * (_UNITS[unit] if unit else 1)
