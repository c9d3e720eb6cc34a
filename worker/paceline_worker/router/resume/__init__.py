"""Streams that survive their engine: what a client has of one, whether another engine can go on, and how it does."""
