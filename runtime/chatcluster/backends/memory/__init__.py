"""Backends on memory."""
