"""Text to token ids with a model's own tokenizer, through the cache of parts. Called by :mod:`.folder`, in a thread."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tokenizers import AddedToken, Tokenizer

from paceline_worker.router.tokens.cache import PartCache
from paceline_worker.router.tokens.cutting import cut, cut_tokens
from paceline_worker.router.tokens.prompt import TokenIds

BATCH_CHARACTERS: Final = 64 * 1024
"""Tokenised in one go. More, and the event loop waits for a long list of numbers; less, and the thread waits for the
interpreter many times while the loop is busy.
"""
_PROBES: Final = ("a", "Two words, and 3.", "\u00e9\u6587 \U0001f642\n")
"""Texts by which is told what a tokenizer puts around every text."""


class Encoder:
    """A tokenizer that remembers. Safe to use in several threads at once."""

    def __init__(self, tokenizer: Tokenizer, cache: PartCache, *, cut_before: Iterable[str]) -> None:
        """``cut_before``: special tokens that structure prompts."""
        # Its own threads would take every core for one long prompt, the router's loop's among them.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._cache = cache
        added: list[AddedToken] = list(tokenizer.get_added_tokens_decoder().values())
        self._cuts = () if tokenizer.encode_special_tokens else cut_tokens(cut_before, added)
        self._around = self._ask_around()
        self.longest_token = max(map(len, tokenizer.get_vocab(with_added_tokens=True)), default=1)
        """In characters of the vocabulary: by it a text's tokens can't be fewer than so many."""

    def encode(self, text: str, *, special_tokens: bool) -> TokenIds:
        """Token ids; ``special_tokens``: with those that the tokenizer puts around a text by itself."""
        if special_tokens and self._around is None:
            return array("I", self._tokenizer.encode(text, add_special_tokens=True).ids)
        result = array("I")
        head, tail = self._around if special_tokens and self._around is not None else ((), ())
        result.extend(head)
        for tokens in self._parts(text):
            result.extend(tokens)
        result.extend(tail)
        return result

    def _parts(self, text: str) -> Iterator[TokenIds]:
        *closed, last = cut(text, self._cuts)
        found = [self._cache.get(part) for part in closed]
        missing = [part for part, tokens in zip(closed, found, strict=True) if tokens is None]
        # The last part is open: in the next turn it has grown.
        new = self._encode([*missing, last])
        for part, known in zip(closed, found, strict=True):
            tokens = next(new) if known is None else known
            if known is None:
                self._cache.put(part, tokens)
            yield tokens
        yield from new

    def _encode(self, parts: Sequence[str]) -> Iterator[TokenIds]:
        for batch in _batches(parts):
            for encoding in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                yield array("I", encoding.ids)

    def _ask_around(self) -> tuple[TokenIds, TokenIds] | None:
        """Ids before and after every text; None if they are not the same for all."""
        seen = {self._around_of(probe) for probe in _PROBES}
        if len(seen) != 1:
            return None
        only = seen.pop()
        return None if only is None else (array("I", only[0]), array("I", only[1]))

    def _around_of(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        bare: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        full: list[int] = self._tokenizer.encode(text, add_special_tokens=True).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return tuple(full[:start]), tuple(full[start + len(bare) :])
        return None


def _batches(parts: Sequence[str]) -> Iterator[list[str]]:
    """Each batch lets go of the interpreter once, and takes it once to make numbers of Python's."""
    batch: list[str] = []
    size = 0
    for part in parts:
        if batch and size + len(part) > BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(part)
        size += len(part)
    yield batch
