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
