"""The commands in the pages: in blocks, which are whole, and inside sentences, where they may be named only."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.markdown import Block, Page

SHELLS = ("console", "bash", "sh", "")
PROGRAMS = ("paceline", "make", "python", "kubectl", "helm")


@dataclass(frozen=True)
class Shown:
    """A command in a block, and the lines that the page shows as its output."""

    words: list[str]
    output: tuple[str, ...] = ()


def commands_of(text: str, *, prompted: bool) -> Iterator[list[str]]:
    """Simple commands of a block, as words, of the programs that are looked at. With ``prompted`` only lines after a
    ``$`` are commands.
    """
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if not prompted or line.startswith("$ "):
            yield from _commands_in(line.removeprefix("$ "))


def _commands_in(line: str) -> Iterator[list[str]]:
    # What stands far right of a command is a remark on it, with a # or without.
    command = re.split(r"\s{3,}", line.rstrip())[0]
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|;&<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("|;&<>()"):
            words.append(word)
            continue
        while words and re.match(r"^[A-Z_]+=", words[0]):
            del words[0]
        # A word in brackets is a synopsis, not a command.
        if words and not any(word.startswith("[") for word in words):
            words[0] = Path(words[0]).name
            if words[0] in PROGRAMS:
                yield [word.removesuffix("...") for word in words]
        words = []


def _blocks(page: Page) -> Iterator[tuple[Block, bool]]:
    for block in page.blocks(*SHELLS):
        prompted = block.language == "console" or re.search(r"^\$ ", block.text, re.MULTILINE) is not None
        if prompted or block.language or block.text.startswith(("paceline ", "source ")):
            yield block, prompted


def in_blocks(page: Page) -> Iterator[list[str]]:
    """Commands of the page's blocks."""
    for block, prompted in _blocks(page):
        yield from commands_of(block.text, prompted=prompted)


def shown_in_blocks(page: Page) -> Iterator[Shown]:
    """The same, each with what the block shows below it."""
    for block, prompted in _blocks(page):
        if not prompted:
            yield from map(Shown, commands_of(block.text, prompted=False))
            continue
        for part in re.split(r"^(?=\$ )", block.text, flags=re.MULTILINE):
            line, _, rest = re.sub(r"\\\n\s*", " ", part).partition("\n")
            output = tuple(filter(None, rest.splitlines()))
            yield from (Shown(words, output) for words in commands_of(line, prompted=True))


def in_text(page: Page) -> Iterator[list[str]]:
    """Commands between single backticks."""
    for code in page.code():
        if re.match(r"^(\S+=\S+ )*(\.venv/bin/)?(paceline|make|python -m) [a-z]", code):
            yield from commands_of(code, prompted=False)
