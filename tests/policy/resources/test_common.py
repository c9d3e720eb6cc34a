from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from paceline.api.v1alpha1 import from_manifest
from paceline.policy.resources.common import (
    NAME_LIMIT,
    child_metadata,
    child_name,
    config_map,
    dns_label,
    selector_labels,
    short_hash,
)
from tests.api.documents import changed, deployment, minimal_manifest

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
subdomains = st.from_regex(
    r"[a-z0-9]([-a-z0-9]{0,80}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,80}[a-z0-9])?){0,2}", fullmatch=True
)


def test_a_name_that_fits_stays_as_it_is() -> None:
    assert child_name(deployment(), "router") == "small-router"


@given(subdomains, st.integers(20, NAME_LIMIT))
def test_every_name_of_a_resource_makes_a_dns_label_within_the_limit(name: str, limit: int) -> None:
    label = dns_label(name, limit=limit)
    assert LABEL.fullmatch(label)
    assert len(label) <= limit
    assert label == name or label.endswith(short_hash(name))


@given(st.lists(subdomains, min_size=2, max_size=2, unique=True))
def test_different_names_stay_different(names: list[str]) -> None:
    assert dns_label(names[0], limit=30) != dns_label(names[1], limit=30)


def test_long_names_that_begin_alike_have_different_children() -> None:
    first, second = (from_manifest(changed("metadata.name", "a" * 80 + end), "test") for end in ("x", "y"))
    assert child_name(first, "router") != child_name(second, "router")
    assert selector_labels(first, "engine") != selector_labels(second, "engine")


def test_label_values_fit_whatever_the_name() -> None:
    md = from_manifest(changed("metadata.name", "very.long." + "n" * 200), "test")
    assert all(len(value) <= NAME_LIMIT for value in selector_labels(md, "engine", "flexible").values())


def test_a_child_belongs_to_the_resource_once_that_is_in_a_cluster() -> None:
    manifest = minimal_manifest()
    manifest["metadata"]["uid"] = "1234"
    (owner,) = child_metadata(from_manifest(manifest, "test"), "x", "engine")["ownerReferences"]
    assert owner == {
        "apiVersion": "paceline.dev/v1alpha1",
        "kind": "ModelDeployment",
        "name": "small",
        "uid": "1234",
        "controller": True,
        "blockOwnerDeletion": True,
    }


def test_a_child_of_a_file_belongs_to_nothing() -> None:
    assert "ownerReferences" not in child_metadata(deployment(), "x", "engine")


def test_a_config_map_changes_its_name_with_its_content() -> None:
    md = deployment()
    first, second, again = (
        config_map(md, "config", "x.json", document, "engine", None) for document in (b"1", b"2", b"1")
    )
    assert first["immutable"] is True
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert first == again


def test_equal_values_have_equal_hashes_whatever_their_order() -> None:
    assert short_hash({"a": 1, "b": 2}) == short_hash({"b": 2, "a": 1}) != short_hash({"a": 1, "b": 3})
