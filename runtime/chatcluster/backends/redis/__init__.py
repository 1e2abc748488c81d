"""Backends on redis."""
