"""What the emulator says: each token follows from all tokens before it and a seed, in constant time.

The tokens are folded into a polynomial hash mod 2**64. Whoever has the state after a prompt can go on: an engine that
got the wrong request's state, or a stream that was resumed at the wrong place, shows it in the bytes. Text is
pronounceable.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from paceline_worker.emulator.tokens import EOS

_MASK: Final = (1 << 64) - 1
_BASE: Final = 0x9E3779B97F4A7C15
"""Odd, so that folding a token loses nothing."""

_VOWELS: Final = b"aeiouaeiouaeioy"
_CONSONANTS: Final = b"bcdfghjklmnprstvwz"
_SPACE: Final = 32
_SPACES_IN_8: Final = 2
"""Of eight syllables, this many end a word."""
_END_IN: Final = 112
"""One in so many vowels ends the text. Four in nine tokens are vowels, so texts have about 250 tokens on average."""

_IS_VOWEL: Final = frozenset(_VOWELS)
_IS_CONSONANT: Final = frozenset(_CONSONANTS)


def fold(tokens: Iterable[int], state: int = 0) -> int:
    """State after more tokens. 0 is the state of nothing."""
    for token in tokens:
        state = (state * _BASE + token + 1) & _MASK
    return state


class Voice:
    """One continuation. ``state`` is that of all tokens so far, ``last`` the last of them."""

    __slots__ = ("_seed", "last", "state")

    def __init__(self, state: int, last: int, seed: int) -> None:
        self.state = state
        self.last = last
        self._seed = fold((seed & _MASK,), _BASE)

    def draw(self) -> int:
        """64 bits that follow from the tokens so far and the seed; drawing again gives the same (splitmix64)."""
        x = self.state ^ self._seed
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        return x ^ (x >> 31)

    def next(self, *, may_end: bool) -> int:
        """Say the next token; the end-of-text token only if ``may_end``."""
        x = self.draw()
        last = self.last
        if last in _IS_VOWEL:
            if may_end and (x >> 40) % _END_IN == 0:
                token = EOS
            else:
                token = _SPACE if x & 7 < _SPACES_IN_8 else _CONSONANTS[(x >> 8) % len(_CONSONANTS)]
        elif last in _IS_CONSONANT:
            token = _VOWELS[(x >> 8) % len(_VOWELS)]
        else:
            token = _CONSONANTS[(x >> 8) % len(_CONSONANTS)]
        self.take(token)
        return token

    def take(self, token: int) -> None:
        """Go on after a token, whoever chose it."""
        self.last = token
        self.state = (self.state * _BASE + token + 1) & _MASK

    def logprobs(self, count: int) -> list[tuple[int, float]]:
        """Made-up log probabilities: the token just said, then ``count`` less likely ones. Deterministic."""
        x = self.draw()
        said = -(x & 0xFFFF) / 0x10000
        others = [letter for letter in sorted(_IS_VOWEL | _IS_CONSONANT) if letter != self.last]
        start = (x >> 16) % len(others)
        return [(self.last, said)] + [
            (others[(start + place) % len(others)], said - 1.0 - place) for place in range(count)
        ]
