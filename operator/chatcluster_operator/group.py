"""Names of the API, and the annotations by which people ask something of what runs.

Imports nothing, so that ``kubectl chat`` need not load the models to know them.
"""

from __future__ import annotations

GROUP = "chatcluster.dev"
VERSION = "v1"
PLURAL = "chatclusters"
KIND = "ChatCluster"

DRAIN = f"{GROUP}/drain"
"""On a gateway's pod: it shall leave, as soon as its successor is ready and the budget lets it. Taken off before it was
told, it stays. Its value is the time of asking, RFC 3339, by which a drain that does not begin is found."""
RESTARTED = f"{GROUP}/restarted-at"
"""Among a component's ``podAnnotations``: another value is another revision of its pods."""
