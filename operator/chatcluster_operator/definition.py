"""Waiting for the definition of ChatCluster, which may be installed after the operator."""

from __future__ import annotations

import asyncio
import logging

from chatcluster_operator.kube import Kube, Trouble
from chatcluster_operator.spec import GROUP, KIND, VERSION

log = logging.getLogger(__name__)

PAUSE = 3.0
"""Seconds between two looks."""


async def known(kube: Kube, pause: float = PAUSE) -> None:
    """Until the API server serves ChatClusters.

    kopf looks for what it is to watch once: without its scanning, which needs rights in the whole cluster, it would not
    see a definition that comes later, and watch nothing for ever.
    """
    told = False
    while True:
        try:
            if await kube.kinds({KIND: f"{GROUP}/{VERSION}"}):
                return
        except Trouble as trouble:
            log.warning("asking for the definition of ChatCluster: %s", trouble)
        else:
            if not told:
                log.warning("the cluster does not know ChatClusters (crds/chatclusters.yaml): waiting for them")
            told = True
        kube.forget_kinds()
        await asyncio.sleep(pause)
