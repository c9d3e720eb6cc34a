"""The reference pages that are made from code are what the code makes now."""

from __future__ import annotations

import pytest

from paceline.api import labels
from tests.docs.markdown import ROOT
from tests.docs.reference import generated_pages


@pytest.mark.parametrize("path", sorted(generated_pages()))
def test_a_generated_page_is_what_the_code_makes(path: str) -> None:
    assert (ROOT / path).read_text("utf-8") == generated_pages()[path], "run `make generate`"


def test_every_name_of_ours_is_on_the_page() -> None:
    page = generated_pages()["docs/reference/labels.md"]
    names = [value for name, value in vars(labels).items() if name.isupper() and value.startswith("paceline.dev/")]
    assert [name for name in names if f"`{name}`" not in page] == [labels.API_VERSION]


def test_no_name_is_told_under_another_kind() -> None:
    page = generated_pages()["docs/reference/labels.md"]
    sections = dict(section.split("\n", 1) for section in page.split("\n## ")[1:])
    assert {kind for kind, rows in sections.items() if rows.count("| `") == 0} == set()
    assert f"`{labels.SERVING_GATE}`" in sections["Readiness gate"]
    assert f"`{labels.GPU_FAULT}`" in sections["Taint"]
    assert f"`{labels.ROLE}`" in sections["Labels"]
    assert f"`{labels.DRAIN}`" in sections["Annotations"]
