"""ChatCluster's runtime: the services that carry messages, and the client that speaks to them."""

__version__ = "0.1.0"
