"""The pure core: data and decisions without I/O.

Nothing here reads a clock, randomness or the network (law 11): time is an argument.
"""
