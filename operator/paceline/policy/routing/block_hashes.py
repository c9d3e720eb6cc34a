"""Names of prefix blocks: xxh3 chained over token ids, so that equal names mean equal prefixes.

The router names the blocks of requests and those in the engines' cache events by the same chain, which makes it
independent of how an engine hashes. Names have 60 bits: CPython keeps such an int in 32 bytes, and among ten million
blocks the chance that any two collide is below 1 in 10,000. A collision costs a bad placement, never a wrong answer.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from struct import iter_unpack
from typing import Final

from xxhash import xxh3_64_intdigest, xxh3_128_digest

TOKEN_BYTES: Final = array("I").itemsize
NAME_MASK: Final = (1 << 60) - 1
GROUP_BLOCKS: Final = 64
"""Blocks that are cut out of a prompt at once: an eighth faster than one by one."""
STRIDE_TOKENS: Final = 4096
"""The chain is remembered in strides of this many tokens."""


def root(model: str, *, block_size: int, adapter: str | None = None, salt: str | None = None) -> int:
    """Where the chain of a prompt begins. Prompts of different roots never share a block.

    ``salt`` is the ``cache_salt`` of the request, with which tenants keep their caches apart.
    """
    text = "\0".join((model, str(block_size), adapter or "", "salted" if salt else "", salt or ""))
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) & NAME_MASK


def chain(parent: int, content: bytes, width: int) -> list[int]:
    """Names of the blocks of ``width`` bytes in ``content``, whose length is a multiple of it, after ``parent``."""
    name, names, one = parent, list[int](), f"{width}s"
    grouped = len(content) - len(content) % (width * GROUP_BLOCKS)
    for group in iter_unpack(one * GROUP_BLOCKS, memoryview(content)[:grouped]):
        names += [name := xxh3_64_intdigest(block, name) & NAME_MASK for block in group]
    return names + [
        name := xxh3_64_intdigest(block, name) & NAME_MASK
        for (block,) in iter_unpack(one, memoryview(content)[grouped:])
    ]


class ChainMemory:
    """Chains that were computed before: turn N of a chat does not hash turns 1 to N-1 again.

    An LRU of strides, keyed by the name before the stride and a 128-bit digest of its content; ``max_strides`` bounds
    it (a stride of 256 blocks takes about 12 kB).
    """

    def __init__(self, max_strides: int) -> None:
        self._max = max_strides
        self._strides: OrderedDict[tuple[int, bytes], list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._strides)

    def names(self, start: int, content: bytes, width: int) -> list[int]:
        """Names of the whole blocks in ``content``, which begins after ``start``."""
        stride = max(1, STRIDE_TOKENS * TOKEN_BYTES // width) * width
        whole = len(content) - len(content) % width
        names: list[int] = []
        strides, parent, at = self._strides, start, 0
        while at + stride <= whole:
            piece = content[at : at + stride]
            key = (parent, xxh3_128_digest(piece))
            known = strides.get(key)
            if known is None:
                known = strides[key] = chain(parent, piece, width)
                if len(strides) > self._max:
                    strides.popitem(last=False)
            else:
                strides.move_to_end(key)
            names += known
            parent = known[-1]
            at += stride
        return names + chain(parent, content[at:whole], width) if at < whole else names
