"""What is built for engines over several nodes, held against the LeaderWorkerSet API without a server."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml

from paceline.policy.resources import Manifest, children
from tests.api.documents import ROOT, sample

CRD = yaml.safe_load((ROOT / "tests" / "kube" / "crds" / "leaderworkersets.yaml").read_text())


def strict(schema: Any) -> Any:
    """The schema as a server with strict field validation reads it: a field that it does not name is an error."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        inner["additionalProperties"] = False
    return inner


SCHEMA = strict(CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def built() -> Manifest:
    return children(sample("multi-node"), replicas={"flexible": 2}).engines[0].workload


def test_it_is_of_the_version_that_the_api_serves() -> None:
    group, _, version = built()["apiVersion"].partition("/")
    assert (group, version) == (CRD["spec"]["group"], CRD["spec"]["versions"][0]["name"])


def test_every_field_is_one_that_the_api_knows_with_a_value_that_it_allows() -> None:
    jsonschema.validate(built(), SCHEMA)


@pytest.mark.parametrize(
    ("field", "value"), [("size", 0), ("restartPolicy", "Sometimes"), ("replicaz", 1), ("workerTemplate", {"spec": {}})]
)
def test_the_schema_would_notice_a_mistake(field: str, value: Any) -> None:
    wrong = built()
    wrong["spec"]["leaderWorkerTemplate"][field] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)
