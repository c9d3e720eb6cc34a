"""What the tests of the documentation read out of a page: blocks, links, headings, code in the text.

Enough Markdown for these pages, and no more: fences begin at the margin or in a list, links are inline.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"

FENCE: Final = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
CODE: Final = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
HEADING: Final = re.compile(r"^(#{1,6}) +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ('' if it names none), its text, and its line in the page."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Link:
    """A link or an image and where it points, as written."""

    is_image: bool
    text: str
    target: str

    @property
    def is_outside(self) -> bool:
        return re.match(r"^[a-z]+:", self.target) is not None


@dataclass(frozen=True)
class Page:
    """A page of the documentation; ``path`` is absolute."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without fenced blocks and comments."""
        return COMMENT.sub("", FENCE.sub("", self.text))

    def blocks(self, *languages: str) -> Iterator[Block]:
        """Fenced blocks in one of ``languages``."""
        for match in FENCE.finditer(self.text):
            if match[2] in languages:
                indent = len(match[1])
                text = "".join(line[indent:] for line in match[3].splitlines(keepends=True))
                yield Block(match[2], text, self.text.count("\n", 0, match.start()) + 2)

    def links(self) -> list[Link]:
        """Links and images outside of code."""
        return [Link(bool(bang), text, target) for bang, text, target in LINK.findall(CODE.sub("", self.prose))]

    def code(self) -> list[str]:
        """What stands between single backticks, one line each."""
        return [" ".join(text.split()) for text in CODE.findall(self.prose)]

    @cached_property
    def anchors(self) -> set[str]:
        """Anchors of the headings, where code hosts and the site make the same of them."""
        return {_host_anchor(title) for _, title in HEADING.findall(self.prose)} & {
            _site_anchor(title) for _, title in HEADING.findall(self.prose)
        }


def _plain(title: str) -> str:
    return re.sub(r"[`*]", "", LINK.sub(r"\2", title)).strip().lower()


def _host_anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", _plain(title)).replace(" ", "-")


def _site_anchor(title: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", _plain(title)).strip())


def pages() -> list[Page]:
    """Every page: the README and all below docs/."""
    return [Page(ROOT / "README.md"), *(Page(path) for path in sorted(DOCS.rglob("*.md")))]
