"""Tokens of parts of prompts that were seen before: system prompts, and all turns of a conversation but the new one.

Used from the threads of the pool, by :mod:`.encoder`.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import Final

from paceline_worker.router.tokens.prompt import TokenIds

ENTRY_BYTES: Final = 250
"""What an entry takes besides its text and its tokens: two objects, and its place in the table. Measured."""
LARGEST_SHARE: Final = 0.25
"""One part may take this share of the cache; a larger one would drive out everything else."""


class PartCache:
    """Least recently used parts go first when the size in bytes is reached."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, TokenIds] = OrderedDict()
        self.bytes = 0
        self.found_characters = 0
        """Characters of parts that were here."""
        self.missed_characters = 0
        self.evicted = 0
        """Entries that went to make room."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, part: str) -> TokenIds | None:
        """Its tokens, not to be changed; None when they are not known."""
        with self._lock:
            tokens = self._entries.get(part)
            if tokens is None:
                self.missed_characters += len(part)
                return None
            self._entries.move_to_end(part)
            self.found_characters += len(part)
            return tokens

    def put(self, part: str, tokens: TokenIds) -> None:
        """Keep them."""
        size = _size(part, tokens)
        if size > self._max_bytes * LARGEST_SHARE:
            return
        with self._lock:
            if part in self._entries:
                return  # another thread was faster
            self._entries[part] = tokens
            self.bytes += size
            while self.bytes > self._max_bytes:
                old_part, old_tokens = self._entries.popitem(last=False)
                self.bytes -= _size(old_part, old_tokens)
                self.evicted += 1


def _size(part: str, tokens: TokenIds) -> int:
    return ENTRY_BYTES + sys.getsizeof(part) + tokens.itemsize * len(tokens)
