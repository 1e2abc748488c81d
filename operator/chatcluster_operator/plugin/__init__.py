"""``kubectl chat``: what people ask of ChatClusters from a terminal, with their own kubeconfig and their own rights.

No part of the operator's process: it agrees with it through the API alone (the status, ``group``'s annotations). It
starts fast, since every command imports only what it needs.
"""
