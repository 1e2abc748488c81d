"""Implementations of the ports: one folder per technology, one file per port it serves."""
