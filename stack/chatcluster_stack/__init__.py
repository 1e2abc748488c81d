"""The platform and its real servers on one machine: for trying it out, for tests and for measuring."""
