"""The persister role."""
