"""What the pages point at is there: links, anchors, pictures, files and tests that the text names; every page is in the
site's contents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.markdown import DOCS, ROOT, Page, pages

TOP_LEVEL = ("operator/", "worker/", "crds/", "helm/", "manifests/", "tests/", "docs/")
SITE = DOCS / "mkdocs" / "mkdocs.yml"

every_page = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)


@every_page
def test_relative_links_and_anchors_lead_somewhere(page: Page) -> None:
    broken = []
    for link in page.links():
        if link.is_outside:
            continue
        path, _, anchor = link.target.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        if not target.is_file() or not target.is_relative_to(ROOT):
            broken.append(f"{link.target}: no such file")
        elif anchor and anchor not in Page(target).anchors:
            broken.append(f"{link.target}: no such heading")
    assert not broken


@every_page
def test_pictures_are_in_the_repository_and_say_what_they_show(page: Page) -> None:
    for link in page.links():
        if link.is_image:
            assert not link.is_outside, f"{link.target} would be fetched from elsewhere"
            assert link.text, f"{link.target} needs a description"


def defines(module: Path, test: str) -> bool:
    return re.search(rf"^ *(async )?def {re.escape(test)}\(", module.read_text("utf-8"), re.MULTILINE) is not None


@every_page
def test_files_that_the_text_names_exist(page: Page) -> None:
    missing = []
    for code in page.code():
        path, _, test = code.partition("::")
        test = test.rpartition("::")[2]
        if not path.startswith(TOP_LEVEL) or re.search(r"[\s<>{}…$*]", path):
            continue
        target = ROOT / path
        if not target.exists() or (test and not defines(target, test)):
            missing.append(code)
    assert not missing


@every_page
def test_lists_and_tables_begin_after_an_empty_line(page: Page) -> None:
    """Code hosts show others too; the site makes one paragraph of them."""
    item = re.compile(r"\s*([-*] |\d+\. |\|)")
    lines = page.prose.splitlines()
    joined = [
        line
        for before, line in pairwise(lines)
        if item.match(line) and not line.startswith(" ") and before.strip() and not before.startswith("  ")
        and not item.match(before)
    ]  # fmt: skip
    assert not joined


def _listed(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for below in entry.values() if isinstance(entry, dict) else entry:
            yield from _listed(below)


def test_the_site_lists_every_page_once() -> None:
    listed = sorted(_listed(yaml.safe_load(SITE.read_text("utf-8"))["nav"]))
    assert listed == sorted(
        page.path.relative_to(DOCS).as_posix() for page in pages() if page.path.is_relative_to(DOCS)
    )


@pytest.mark.parametrize("folder", ["decisions", "operations/runbooks"])
def test_the_page_of_a_folder_leads_to_all_pages_in_it(folder: str) -> None:
    index = Page(DOCS / folder / "README.md")
    beside = {path.name for path in index.path.parent.glob("*.md")} - {"README.md"}
    assert beside <= {link.target for link in index.links()}


def test_the_failure_modes_name_a_test_in_every_row() -> None:
    page = Page(DOCS / "operations" / "failure-modes.md")
    rows = [line for line in page.prose.splitlines() if line.startswith("| ") and not line.startswith("| What fails")]
    assert len(rows) > 20
    without = [row for row in rows if "::test_" not in row]
    assert not without
