"""Decisions as pure functions: no I/O, no clock, no randomness of their own. Production and simulation call the same objects."""
