"""What reading a document from outside may raise. Apart from ``errors``: commands that read none need no decoder."""

from __future__ import annotations

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What msgspec raises for a document that is not what it should be; the last one for deep nesting, also in fields that
nobody asked for.
"""
