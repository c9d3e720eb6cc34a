"""Pages name fields, values of the chart and reasons as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from paceline.api.crd import custom_resource_definition
from paceline_worker.router.errors import Refused
from tests.docs.markdown import DOCS, ROOT, Page, pages

DOTTED = re.compile(r"`(?!tls\.(?:crt|key)`)([a-z][A-Za-z]*(?:\.[a-z][A-Za-z]*(?:\[\])?)+)(?:: [^`]*)?`")


def chains(schema: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Every path through the objects of a schema, from wherever it begins."""
    for name, field in schema.get("properties", {}).items():
        below = list(chains(field.get("items", field)))
        yield (name,)
        yield from below
        yield from ((name, *rest) for rest in below)


def paths(values: object) -> Iterator[tuple[str, ...]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield (name,)
            yield from ((name, *rest) for rest in paths(value))


FIELDS = set(chains(custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
VALUES = set(paths(yaml.safe_load((ROOT / "helm" / "paceline" / "values.yaml").read_text("utf-8"))))
KNOWN = FIELDS | VALUES
OURS = [page for page in pages() if not page.path.name.startswith("from-")]
"""Pages for those who come from elsewhere name the fields of others, too."""


@pytest.mark.parametrize("page", OURS, ids=lambda page: str(page.path.relative_to(ROOT)))
def test_fields_that_a_page_names_exist(page: Page) -> None:
    named = [tuple(found.replace("[]", "").split(".")) for found in DOTTED.findall(page.prose)]
    ours = [name for name in named if name[:1] in KNOWN]
    assert [".".join(name) for name in ours if name not in KNOWN] == []


def test_a_field_of_another_name_is_found() -> None:
    assert ("kvCache",) in KNOWN
    assert ("kvCache", "hostTier", "sizeGiB") in KNOWN
    assert ("kvCache", "hostGiB") not in KNOWN


def test_the_runbook_has_every_reason_of_a_refusal() -> None:
    page = (DOCS / "operations" / "runbooks" / "rejections.md").read_text("utf-8")
    assert [str(reason) for reason in Refused if f"- `{reason}`:" not in page] == []
