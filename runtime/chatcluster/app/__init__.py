"""The composition root: settings, wiring, roles, probes, metrics and the command line."""
