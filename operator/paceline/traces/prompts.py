"""Prompts for trace requests: equal block ids become equal tokens, and every prompt has exactly the length the trace
says.

The content of a block depends on its id alone, so two clients, or a client and a simulator, make the same prompts
without talking to each other. Tokens are ids of printable ASCII characters, which byte-level tokenizers (the
emulator's and the tiny test model's) map to themselves: the same prompt can be sent as text or as token ids.
"""

from __future__ import annotations

import hashlib
import string
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from paceline.traces.record import TraceRequest

ALPHABET: Final = (string.ascii_uppercase + string.digits + " ").encode()
"""Characters whose ids have two digits: requests are a third smaller, and quicker to write."""
DEFAULT_CACHE_BLOCKS: Final = 8_192
"""Blocks kept rendered: 512 tokens are about 2 KB, so about 16 MB."""
_TABLE: Final = bytes(ALPHABET[byte % len(ALPHABET)] for byte in range(256))
_TENS: Final = bytes(48 + byte // 10 % 10 for byte in range(256))
_UNITS: Final = bytes(48 + byte % 10 for byte in range(256))


class PromptMaker:
    """Makes prompts from block ids. ``seed`` gives a different text to the same ids; ``cache_blocks`` bounds the
    memory.
    """

    def __init__(self, *, seed: int = 0, cache_blocks: int = DEFAULT_CACHE_BLOCKS) -> None:
        if cache_blocks < 1:
            raise ValueError(f"cache_blocks must be at least 1: {cache_blocks}")
        self._seed = seed
        self._capacity = cache_blocks
        self._cache: OrderedDict[tuple[int, int], _Part] = OrderedDict()

    def token_ids(self, request: TraceRequest) -> list[int]:
        """``request.input_tokens`` token ids."""
        return list(self.text(request).encode())

    def text(self, request: TraceRequest) -> str:
        """``request.input_tokens`` ASCII characters, one a token."""
        if not request.blocks:
            return self._alone(request).decode()
        return b"".join(self._part(block, size).text for block, size in _blocks(request)).decode()

    def token_ids_json(self, request: TraceRequest) -> bytes:
        """:meth:`token_ids` as a JSON array. Joined from rendered blocks: a long prompt costs microseconds, not
        milliseconds.
        """
        if not request.blocks:
            return b"[" + _render(self._alone(request)) + b"]"
        return b"[" + b",".join(self._part(block, size).ids for block, size in _blocks(request)) + b"]"

    @property
    def cached_blocks(self) -> int:
        """Blocks held now; never more than the bound."""
        return len(self._cache)

    def _part(self, block: int, size: int) -> _Part:
        part = self._cache.get((block, size))
        if part is None:
            text = _characters(f"{self._seed}/{block}", size)
            part = self._cache[block, size] = _Part(text, _render(text))
            if len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end((block, size))
        return part

    def _alone(self, request: TraceRequest) -> bytes:
        """The prompt of a request of which no blocks are known: it shares nothing with any other."""
        key = (
            f"{self._seed}/{request.arrival_seconds!r}/{request.input_tokens}/{request.output_tokens}/{request.session}"
        )
        return _characters(key, request.input_tokens)


class _Part(NamedTuple):
    """The tokens of one block, rendered both ways."""

    text: bytes
    ids: bytes


def _characters(key: str, size: int) -> bytes:
    # An extendable output, so the start of a block is the same however much of it a prompt takes.
    return hashlib.shake_128(key.encode()).digest(size).translate(_TABLE)


def _render(text: bytes) -> bytes:
    """The ids of two digits each, separated by commas: written column by column, which is faster than one by one."""
    digits = bytearray(b",") * (3 * len(text) - 1)
    digits[0::3] = text.translate(_TENS)
    digits[1::3] = text.translate(_UNITS)
    return bytes(digits)


def _blocks(request: TraceRequest) -> Iterator[tuple[int, int]]:
    """(id, tokens taken of the block)."""
    last = len(request.blocks) - 1
    rest = request.input_tokens - last * request.block_size
    for index, block in enumerate(request.blocks):
        yield block, request.block_size if index < last else rest
