"""Decisions as pure functions, without I/O, clock or randomness of their own: production and simulation share them."""
