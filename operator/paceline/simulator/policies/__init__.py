"""Scaling policies to compare: ours, what people use now, and two that nobody can have."""
