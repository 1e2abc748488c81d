"""The Python SDK; needs nothing of the server."""
