"""A bound on how deep JSON nests. Bodies go on to engines as they came, and parsers there recurse.

Called by the parse of every request. One that could not be too deep, which is nearly every one, costs one look at its
bytes.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import Final

MAX_DEPTH: Final = 128
"""Levels of objects and lists. Schemas of tools take two for each level of their own."""
MAX_BRACKETS: Final = 1_000_000
"""Opening and closing ones outside of strings: what there is to look at in Python, some 30 ms."""

_STEPS: Final = bytes(1 if byte in b"[{" else 255 if byte in b"]}" else 0 for byte in range(256))
_NOT_STRUCTURE: Final = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_NOT_OPENING: Final = bytes(byte for byte in range(256) if byte not in b"[{")


def too_deep(text: bytes) -> bool:
    """Whether valid JSON nests deeper than MAX_DEPTH, or has too many brackets to tell."""
    if len(text.translate(None, _NOT_OPENING)) <= MAX_DEPTH:
        return False
    structure = _structure(text)
    if len(structure) > MAX_BRACKETS:
        return True
    return max(accumulate(array("b", structure.translate(_STEPS))), default=0) > MAX_DEPTH


def _structure(text: bytes) -> bytes:
    """The brackets outside of strings."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Every second piece is a string.
    return b"".join(text.translate(None, _NOT_STRUCTURE).split(b'"')[::2])
