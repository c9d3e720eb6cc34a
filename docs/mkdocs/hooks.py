"""MkDocs calls this while it builds the site: files outside docs/ that pages link to come along, below ``source/``, so
that the same links lead somewhere in a checkout and on the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK: Final = re.compile(r"(\]\()((?:\.\./)+[^)\s#]+)(?=[)#])")
FOLDER: Final = "source"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what pages link to and the site lacks."""
    root = Path(config.docs_dir).resolve().parent
    for file in list(files.documentation_pages()):
        for _, target in LINK.findall(file.content_string):
            path = _outside(file.src_uri, target)
            if path is not None and files.get_file_from_path(f"{FOLDER}/{path}") is None:
                files.append(File.generated(config, f"{FOLDER}/{path}", abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Points the links there."""

    def moved(match: re.Match[str]) -> str:
        path = _outside(page.file.src_uri, match[2])
        if path is None:
            return match[0]
        return match[1] + posixpath.relpath(f"{FOLDER}/{path}", posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def _outside(page: str, target: str) -> str | None:
    """The path from the repository's root of a ``target`` outside docs/ that ``page`` links to; else None."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith(("docs/", "..")) else path
