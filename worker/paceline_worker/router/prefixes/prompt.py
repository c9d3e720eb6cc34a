"""The prompt of one request as the prefix index sees it: token ids where they are known, else the bytes of its text."""

from __future__ import annotations

from typing import Final

from paceline.policy.routing.block_hashes import TOKEN_BYTES, ChainMemory, root

TEXT_BLOCK_TOKENS: Final = 16
"""A block of text counts as this many tokens, of about four bytes each."""
TEXT_BLOCK_BYTES: Final = TEXT_BLOCK_TOKENS * 4


class Prompt:
    """Names of its blocks are computed on demand, once for each block size.

    ``content``: token ids as unsigned 32-bit integers in native order, or text. Text is compared only with text that
    this router sent; cache events speak of tokens.
    """

    __slots__ = ("_content", "_memory", "_model", "_names", "adapter", "exact", "salt", "tokens")

    def __init__(
        self,
        content: bytes,
        *,
        exact: bool,
        tokens: int,
        model: str,
        memory: ChainMemory,
        adapter: str | None = None,
        salt: str | None = None,
    ) -> None:
        self.exact = exact
        """Whether the content is token ids."""
        self.tokens = tokens
        """Length in tokens; estimated for text."""
        self.adapter = adapter
        self.salt = salt
        self._content = content
        self._model = model
        self._memory = memory
        self._names: dict[int, list[int]] = {}

    @property
    def held_bytes(self) -> int:
        """Memory that it takes, about: content, and a name of some 40 bytes for each block of at least 64."""
        return 2 * len(self._content)

    def names(self, block_size: int) -> list[int]:
        """Names of its whole blocks of ``block_size`` tokens; blocks of text always have :data:`TEXT_BLOCK_BYTES`."""
        size = block_size if self.exact else 0
        names = self._names.get(size)
        if names is None:
            start = root(self._model, block_size=size, adapter=self.adapter, salt=self.salt)
            width = size * TOKEN_BYTES if self.exact else TEXT_BLOCK_BYTES
            names = self._names[size] = self._memory.names(start, self._content, width)
        return names

    def block_tokens(self, block_size: int) -> int:
        """Tokens that one of :meth:`names` stands for."""
        return block_size if self.exact else TEXT_BLOCK_TOKENS
