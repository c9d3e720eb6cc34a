"""Every YAML in the pages parses; whole ModelDeployments are valid, and parts of one are valid laid over the
quickstart; parts of the chart's values are what its schema allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
import yaml

from paceline.api.labels import KIND
from paceline.api.v1alpha1 import from_manifest
from tests.docs.markdown import ROOT, Block, Page, pages

QUICKSTART = ROOT / "manifests" / "samples" / "quickstart.yaml"
CHART = ROOT / "helm" / "paceline"

yaml_blocks = pytest.mark.parametrize(
    ("page", "block"),
    [
        pytest.param(page, block, id=f"{page.name}:{block.line}")
        for page in pages()
        for block in page.blocks("yaml", "yml")
    ],
)


def laid_over(base: Any, part: Any) -> Any:
    """``part`` over ``base``, maps merged and all else replaced."""
    if not isinstance(base, Mapping) or not isinstance(part, Mapping):
        return part
    return {**base, **{key: laid_over(base.get(key), value) for key, value in part.items()}}


@yaml_blocks
def test_yaml_in_the_pages_is_what_it_says_it_is(page: Page, block: Block) -> None:
    documents = list(yaml.safe_load_all(block.text))
    assert documents
    for document in documents:
        if document.get("kind") == KIND:
            assert from_manifest(document, page.name).metadata.name == document["metadata"]["name"]
        elif set(document) == {"spec"}:
            whole = laid_over(yaml.safe_load(QUICKSTART.read_text("utf-8")), document)
            assert from_manifest(whole, page.name).metadata.name == "quickstart"
        elif "apiVersion" not in document:
            schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
            values = laid_over(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")), document)
            jsonschema.Draft7Validator(schema).validate(values)
