"""The roles. Each knows ``core`` and ``ports`` only: never a backend, never another role."""
