"""Waiting for the definition of ChatCluster, which may be installed after the operator."""

from __future__ import annotations

import asyncio
import logging

from kubernetes.aio.client import ApiClient, CustomObjectsApi
from kubernetes.aio.client.exceptions import ApiException

from chatcluster_operator.spec import GROUP, PLURAL, VERSION

log = logging.getLogger(__name__)

PAUSE = 3.0
"""Seconds between two looks."""
REQUEST = 10.0
"""Seconds for one look."""


async def known(api: ApiClient, pause: float = PAUSE) -> None:
    """Until the API server serves ChatClusters.

    kopf looks for what it is to watch once: without its scanning, which needs rights in the whole cluster, it would not
    see a definition that comes later, and watch nothing for ever.
    """
    asked = CustomObjectsApi(api)
    told = False
    while True:
        try:
            async with asyncio.timeout(REQUEST):
                found = await asked.get_api_resources(GROUP, VERSION)
            if any(one.name == PLURAL for one in found.resources):
                return
        except ApiException as error:
            if error.status != 404:
                log.warning("asking for the definition of ChatCluster: %s %s", error.status, error.reason)
        except (OSError, TimeoutError) as error:
            log.warning("asking for the definition of ChatCluster: %s", type(error).__name__)
        if not told:
            log.warning("the cluster does not know ChatClusters yet (crds/chatclusters.yaml): waiting")
            told = True
        await asyncio.sleep(pause)
