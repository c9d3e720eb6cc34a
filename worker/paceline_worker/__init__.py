"""Paceline's data plane: the engine worker, its emulator, and the router on the request path."""
