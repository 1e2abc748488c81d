"""The presence role."""
