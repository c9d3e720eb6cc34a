"""Paceline's control plane: API types, pure policy, the loops that apply it, and the command line."""

__version__ = "0.1.0"
