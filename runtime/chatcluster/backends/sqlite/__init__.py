"""Backends on sqlite."""
