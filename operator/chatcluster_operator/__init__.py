"""ChatCluster's operator: turns a ``ChatCluster`` resource into a platform (docs/operator.md)."""
