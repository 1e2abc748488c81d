"""ChatCluster's operator: will turn a ``ChatCluster`` resource into a platform. Not built yet.

This package holds the place that the layout and the import rules give it, nothing more.
"""
