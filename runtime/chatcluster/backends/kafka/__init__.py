"""Backends on kafka."""
