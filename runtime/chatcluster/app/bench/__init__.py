"""The load generator: open loop, its own histogram, and the physical limit measured in the same run."""
