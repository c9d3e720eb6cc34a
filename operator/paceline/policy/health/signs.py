"""Signs that one answer is not well: the same token without end, the same phrase without end, a script that the prompt
did not call for.

A sign proves nothing by itself: a table repeats, and a translation changes the script. It is counted, and engines are
compared by their counts (:mod:`paceline.policy.health.output`). Called by the router at the end of an answer, and now
and then within a long one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from paceline.policy.health.scripts import Script, count_scripts, holds_script


class Sign(StrEnum):
    """What looks wrong."""

    ONE_TOKEN = "one-token"  # noqa: S105 - not a password
    """Nothing but one token: NaN in the logits ends so."""
    REPETITION = "repetition"
    """A phrase again and again."""
    LENGTH = "length"
    """Much longer than the others' answers."""
    SCRIPT = "script"
    """Letters of a script that the prompt has none of, or no text at all."""


TAIL: Final = 192
"""Tokens at the end of an answer that are looked at."""
LEAST_TAIL: Final = 64
"""Fewer say nothing of repetition: short lists repeat."""
ROUNDS: Final = 4
"""Times that a phrase must stand in the tail, without a gap. So a phrase has 48 tokens at most."""
LEAST_ALIKE: Final = 8
"""Tokens of a whole answer that may be all the same one by chance."""
SAMPLE_CHARACTERS: Final = 1024
"""Of an answer's end, by which its script is told."""
PROMPT_SAMPLE_BYTES: Final = 4096
"""Of both ends of a prompt, as it stands in JSON."""
SOURCE_SAMPLE_BYTES: Final = 512
"""Of both ends of a prompt, by which it is known again."""
LEAST_LETTERS: Final = 32
FOREIGN_SHARE: Final = 0.5
GARBLED_SHARE: Final = 0.2


def repetition(tokens: Sequence[int]) -> Sign | None:
    """What the last tokens of an answer say. ``tokens``: the last :data:`TAIL` of it, or all if there are fewer."""
    tail = array("Q", tokens[-TAIL:])
    size = len(tail)
    if size >= LEAST_ALIKE and tail[0] == tail[-1] and tail.count(tail[0]) == size:
        return Sign.ONE_TOKEN
    if size < LEAST_TAIL:
        return None
    last, candidates = tail[-1], tail[-1 - size // ROUNDS : -1]
    if not candidates.count(last):
        return None
    raw, width = tail.tobytes(), tail.itemsize
    for at, token in enumerate(reversed(candidates), start=1):
        # Only where the last token stood a period before, too, all of the tail is compared.
        if token == last and raw[at * width :] == raw[: -at * width]:
            return Sign.REPETITION
    return None


def tokens_of_text(pieces: Iterable[str | bytes]) -> list[int]:
    """Stand-ins for the ids of tokens that nobody told: equal pieces of text have equal ones."""
    known: dict[str | bytes, int] = {}
    return [known.setdefault(piece, len(known)) for piece in pieces]


def foreign(text: str, prompt: bytes) -> Sign | None:
    """Whether the end of an answer is in a script that its prompt has nothing of.

    ``prompt``: as it stands in JSON; only its ends are looked at. Latin letters are never foreign: code, names and
    markup are Latin in every language.
    """
    if text.isascii():
        return None
    sample = text[-SAMPLE_CHARACTERS:]
    counts = count_scripts(sample)
    if counts[Script.GARBLED] >= GARBLED_SHARE * len(sample) and len(sample) >= LEAST_LETTERS:
        return Sign.SCRIPT
    letters = sum(counts.values())
    script, most = max(counts.items(), key=lambda one: one[1])
    if letters < LEAST_LETTERS or script is Script.LATIN or most < FOREIGN_SHARE * letters:
        return None
    return None if holds_script(_ends(prompt, PROMPT_SAMPLE_BYTES), script) else Sign.SCRIPT


def source_of(prompt: bytes, session: str | None) -> int:
    """A number for where a prompt comes from: answers of one conversation, or to one prompt, are one witness."""
    content = _ends(prompt, SOURCE_SAMPLE_BYTES) if session is None else session.encode()
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big")


def _ends(prompt: bytes, size: int) -> bytes:
    return prompt if len(prompt) <= 2 * size else prompt[:size] + b" " + prompt[-size:]
