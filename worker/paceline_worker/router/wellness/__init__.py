"""Compares engines by what they say and how fast, and takes those that stand out out of rotation."""
