"""Backends on links."""
