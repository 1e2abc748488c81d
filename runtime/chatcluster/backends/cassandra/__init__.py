"""Backends on cassandra."""
