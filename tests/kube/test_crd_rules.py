from __future__ import annotations

from typing import Any

import pytest
import yaml

from paceline.api.v1alpha1 import from_manifest, load
from tests.api.documents import (
    INVALID,
    INVALID_UPDATES,
    SAMPLES,
    changed,
    expected_refusal,
    minimal_manifest,
    update_pair,
)
from tests.kube.client import Kube, collection

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

UNPROCESSABLE = 422
BAD_REQUEST = 400
WITHOUT_THE_WORDS = {
    "unknown-field": "unknown field",
    "wrong-type": "must be of type integer",
    "out-of-range": "should be greater than or equal to 1",
    "unknown-word": 'supported values: "Disaggregated", "Aggregated"',
    "bare-off-is-a-boolean": "must be of type string",
    "name-twice": "Duplicate value",
    "local-path-relative": "should match '^/.+$'",
    "required-field-missing": "Required value",
}
"""Refusals that come from the schema, not from a rule: the server says them in words of its own."""


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_the_server_refuses_what_python_refuses_and_for_the_same_reason(kube: Kube, path) -> None:
    status, answer = kube.create(yaml.safe_load(path.read_text()), "default", dryRun="All")
    assert status in {UNPROCESSABLE, BAD_REQUEST}
    field, _, message = expected_refusal(path).partition(": ")
    words = WITHOUT_THE_WORDS.get(path.stem, message)
    assert words in answer["message"]
    if status == UNPROCESSABLE and path.stem not in WITHOUT_THE_WORDS:
        assert [cause for cause in answer["details"]["causes"] if cause["field"] == field and words in cause["message"]]


@pytest.mark.parametrize("path", INVALID_UPDATES, ids=lambda path: path.stem)
def test_the_server_refuses_to_change_what_can_not_be_changed(kube: Kube, namespace: str, path) -> None:
    old, new = update_pair(path)
    status, created = kube.create(old, namespace)
    assert status == 201, created
    new["metadata"] = created["metadata"]
    where = f"{collection(new, namespace)}/{new['metadata']['name']}"
    status, answer = kube.request("PUT", where, new, fieldValidation="Strict")
    assert status == UNPROCESSABLE
    field, _, message = expected_refusal(path).partition(": ")
    assert [(cause["field"], message in cause["message"]) for cause in answer["details"]["causes"]] == [(field, True)]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_server_accepts_every_sample_and_fills_in_the_same_defaults_as_python(kube: Kube, path) -> None:
    status, answer = kube.create(yaml.safe_load(path.read_text()), "default", dryRun="All")
    assert status == 201, answer
    assert from_manifest(answer, "server").spec == load(path.read_text(), path.name).spec


def test_the_server_fills_in_every_default_that_python_knows(kube: Kube) -> None:
    status, answer = kube.create(minimal_manifest(), "default", dryRun="All")
    assert status == 201, answer
    filled = from_manifest(minimal_manifest(), "test").model_dump(mode="json", exclude_none=True)["spec"]
    assert answer["spec"] == without_empty_lists(filled)


def test_null_means_left_out_on_the_server_too(kube: Kube) -> None:
    status, answer = kube.create(
        changed("spec.scaling", {"gpuBudget": None, "forecast": None}), "default", dryRun="All"
    )
    assert status == 201, answer
    assert from_manifest(answer, "server").spec == from_manifest(minimal_manifest(), "test").spec


def test_the_server_keeps_a_pod_template_as_it_is(kube: Kube) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"unheardOf": [{"x": 1.5, "y": True}]}}
    status, answer = kube.create(changed("spec.engine.podTemplate", template), "default", dryRun="All")
    assert status == 201, answer
    assert answer["spec"]["engine"]["podTemplate"] == template


def test_status_is_written_apart_from_the_spec(kube: Kube, namespace: str) -> None:
    status, created = kube.create(minimal_manifest(), namespace)
    assert status == 201, created
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "AsDesired",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    created["status"] = {"observedGeneration": 1, "conditions": [condition], "ratio": "2:1"}
    created["spec"]["slo"]["ttftMilliseconds"] = 1
    where = f"{collection(created, namespace)}/small"
    status, answer = kube.request("PUT", f"{where}/status", created)
    assert status == 200, answer
    assert answer["status"]["conditions"] == [condition]
    assert answer["spec"]["slo"]["ttftMilliseconds"] == 2000
    assert answer["metadata"]["generation"] == 1
    assert from_manifest(answer, "server").status is not None


def test_the_table_shows_what_people_look_for(kube: Kube, namespace: str) -> None:
    kube.create(minimal_manifest(), namespace)
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    status, answer = kube.request("GET", collection(minimal_manifest(), namespace), accept=table)
    assert status == 200, answer
    narrow = [column["name"] for column in answer["columnDefinitions"] if column["priority"] == 0]
    assert narrow == ["Name", "Model", "Ready", "Prefill", "Decode", "SLO", "Age"]


def without_empty_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_empty_lists(item) for key, item in value.items() if item != []}
    return value
