"""Which writing systems a text uses, by the ranges of Unicode's blocks. Coarse on purpose: Han and kana are one script
here, because a Japanese answer to a Chinese prompt is a matter of taste, and a Cyrillic one is not.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from enum import StrEnum
from typing import Final


class Script(StrEnum):
    """A writing system, or a family of them."""

    LATIN = "latin"
    GREEK = "greek"
    CYRILLIC = "cyrillic"
    CAUCASIAN = "caucasian"
    HEBREW = "hebrew"
    ARABIC = "arabic"
    INDIC = "indic"
    SOUTH_EAST_ASIAN = "south-east-asian"
    HANGUL = "hangul"
    CJK = "cjk"
    OTHER = "other"
    GARBLED = "garbled"
    """No text: replacement characters, private use, lone surrogates."""


# First code point of each run and its script, from the block names of the Unicode Character Database (Blocks.txt).
_RUNS: Final = (
    (0x0000, Script.LATIN), (0x0370, Script.GREEK), (0x0400, Script.CYRILLIC), (0x0530, Script.CAUCASIAN),
    (0x0590, Script.HEBREW), (0x0600, Script.ARABIC), (0x0900, Script.INDIC), (0x0E00, Script.SOUTH_EAST_ASIAN),
    (0x0F00, Script.OTHER), (0x1000, Script.SOUTH_EAST_ASIAN), (0x10A0, Script.CAUCASIAN), (0x1100, Script.HANGUL),
    (0x1200, Script.OTHER), (0x1780, Script.SOUTH_EAST_ASIAN), (0x1800, Script.OTHER), (0x1C80, Script.CYRILLIC),
    (0x1C90, Script.CAUCASIAN), (0x1CC0, Script.OTHER), (0x1E00, Script.LATIN), (0x1F00, Script.GREEK),
    (0x2000, Script.LATIN), (0x2E80, Script.CJK), (0x3130, Script.HANGUL), (0x3190, Script.CJK),
    (0xA000, Script.OTHER), (0xA640, Script.CYRILLIC), (0xA6A0, Script.OTHER), (0xA720, Script.LATIN),
    (0xA800, Script.INDIC), (0xA960, Script.HANGUL), (0xA980, Script.OTHER), (0xAC00, Script.HANGUL),
    (0xD800, Script.GARBLED), (0xF900, Script.CJK), (0xFB00, Script.LATIN), (0xFB1D, Script.HEBREW),
    (0xFB50, Script.ARABIC), (0xFE00, Script.OTHER), (0xFE70, Script.ARABIC), (0xFF00, Script.LATIN),
    (0xFF65, Script.CJK), (0xFFA0, Script.HANGUL), (0xFFE0, Script.OTHER), (0xFFF0, Script.GARBLED),
    (0x10000, Script.OTHER), (0x20000, Script.CJK), (0x32000, Script.OTHER), (0xF0000, Script.GARBLED),
)  # fmt: skip
_STARTS: Final = tuple(start for start, _ in _RUNS)
_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})")
ENOUGH: Final = 2
"""Letters of a script by which a prompt calls for it."""


def script_of(character: str) -> Script | None:
    """None for what belongs to every script: digits, punctuation, symbols, emoji."""
    script = _RUNS[bisect_right(_STARTS, ord(character)) - 1][1]
    return script if script is Script.GARBLED or character.isalpha() else None


def count_scripts(text: str) -> Counter[Script]:
    """Letters of each script."""
    counts: Counter[Script] = Counter()
    for character, count in Counter(text).items():
        script = script_of(character)
        if script is not None:
            counts[script] += count
    return counts


def unescaped(json_text: bytes) -> str:
    """Text as it stands in JSON, cut anywhere, readable enough to tell its scripts."""
    text = json_text.decode("utf-8", "ignore")
    if "\\u" not in text:
        return text
    # Characters beyond the first plane are escaped as two halves; a half that was cut off is dropped.
    halves = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


def holds_script(json_text: bytes, script: Script) -> bool:
    """Whether a text that stands in JSON has letters of ``script``."""
    return count_scripts(unescaped(json_text))[script] >= ENOUGH
