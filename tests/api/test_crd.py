from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any

import jsonschema
import pytest
import yaml
from pydantic import Field

from paceline.api.crd import custom_resource_definition, printer_columns, render, structural_schema
from paceline.api.v1alpha1.base import Model
from paceline.api.v1alpha1.rules import RULES, UPDATE_RULES
from paceline.api.yaml_reader import read_document
from tests.api.documents import ROOT, SAMPLES

COMMITTED = ROOT / "crds" / "paceline.dev_modeldeployments.yaml"
OPAQUE = "x-kubernetes-preserve-unknown-fields"


@cache
def version() -> dict[str, Any]:
    (only,) = custom_resource_definition()["spec"]["versions"]
    return only


def root_schema() -> dict[str, Any]:
    return version()["schema"]["openAPIV3Schema"]


def nodes(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def own_nodes() -> list[tuple[str, Mapping[str, Any]]]:
    properties = root_schema()["properties"]
    return [*nodes(properties["spec"], "spec"), *nodes(properties["status"], "status")]


class TestTheCommittedFile:
    def test_is_what_the_types_generate(self) -> None:
        assert COMMITTED.read_text() == render()

    def test_is_the_same_on_every_run(self) -> None:
        assert render() == render()

    def test_is_at_most_half_of_what_the_annotation_of_kubectl_apply_may_hold(self) -> None:
        assert len(COMMITTED.read_bytes()) < 262_144 / 2

    def test_holds_one_document_without_aliases(self) -> None:
        document = read_document(COMMITTED.read_text(), COMMITTED.name)
        assert document["metadata"]["name"] == "modeldeployments.paceline.dev"


class TestEveryFieldOfTheSchema:
    def test_has_a_type_that_kubernetes_knows(self) -> None:
        assert {node.get("type") for _, node in own_nodes()} == {"object", "array", "string", "integer"}

    def test_has_a_description(self) -> None:
        # Items of a list are described by the list, or by their own fields.
        missing = [path for path, node in own_nodes() if "description" not in node and not path.endswith("[]")]
        assert missing == []

    def test_uses_only_keywords_of_structural_schemas(self) -> None:
        allowed = {
            *("type", "description", "properties", "required", "items", "enum", "default", "format", "pattern"),
            *("minimum", "maximum", "minLength", "maxLength", "maxItems"),
            *("x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-validations", OPAQUE),
        }
        assert {keyword for _, node in own_nodes() for keyword in node} <= allowed

    def test_is_bounded(self) -> None:
        def bounded(node: Mapping[str, Any]) -> bool:
            match node["type"]:
                case "integer":
                    return "minimum" in node and "maximum" in node and "format" in node
                case "string":
                    return "enum" in node or "maxLength" in node or node.get("format") == "date-time"
                case "array":
                    return "maxItems" in node
                case _:
                    return "properties" in node or OPAQUE in node

        assert [path for path, node in own_nodes() if not bounded(node)] == []

    def test_has_bounds_that_a_float_holds_exactly_for_the_api_server_compares_them_as_floats(self) -> None:
        assert [path for path, node in own_nodes() if node.get("maximum", 0) >= 2**53] == []

    def test_is_a_list_only_with_a_list_type(self) -> None:
        lists = [(path, node) for path, node in own_nodes() if node["type"] == "array"]
        assert [path for path, node in lists if node.get("x-kubernetes-list-type") not in {"map", "atomic"}] == []
        for path, node in lists:
            if node["x-kubernetes-list-type"] == "map":
                keys = node["x-kubernetes-list-map-keys"]
                assert set(keys) <= set(node["items"]["required"]), path

    def test_with_a_unit_says_it_in_its_name(self) -> None:
        names = [path.rpartition(".")[2] for path, node in own_nodes() if node["type"] == "integer"]
        assert not [
            name
            for name in names
            if name.lower().endswith(("timeout", "duration", "ttl", "deadline", "size")) and name != "blockSize"
        ]

    def test_is_required_only_without_a_default(self) -> None:
        for path, node in own_nodes():
            for name in node.get("required", ()):
                assert "default" not in node["properties"][name], f"{path}.{name}"

    def test_has_a_default_that_its_own_schema_accepts(self) -> None:
        for _, node in own_nodes():
            if "default" in node:
                jsonschema.validate(node["default"], dict(node))


class TestRules:
    def test_all_reach_the_schema_once_for_each_place_of_their_model(self) -> None:
        placed = [entry["rule"] for _, node in own_nodes() for entry in node.get("x-kubernetes-validations", ())]
        assert set(placed) == {rule.cel for rule in (*RULES, *UPDATE_RULES)}

    def test_point_to_fields_that_exist(self) -> None:
        for path, node in own_nodes():
            for entry in node.get("x-kubernetes-validations", ()):
                target: Mapping[str, Any] = node
                for part in filter(None, entry.get("fieldPath", "").split(".")):
                    assert part in target["properties"], f"{path}: {entry['fieldPath']}"
                    target = target["properties"][part]


class TestTheTableOfKubectl:
    def test_shows_what_people_look_for(self) -> None:
        columns = [column["name"] for column in printer_columns() if not column.get("priority")]
        assert columns == ["Model", "Ready", "Prefill", "Decode", "SLO", "Age"]

    def test_reads_fields_that_exist(self) -> None:
        for column in printer_columns():
            steps = column["jsonPath"].removeprefix(".").split("[", 1)[0].split(".")
            node: Mapping[str, Any] = root_schema()
            for step in steps:
                if step == "creationTimestamp":
                    break
                assert step in node["properties"] or step == "metadata", column["jsonPath"]
                node = node["properties"][step]


class TestTheResource:
    def test_has_a_status_of_its_own_a_short_name_and_a_category(self) -> None:
        names = custom_resource_definition()["spec"]["names"]
        assert version()["subresources"] == {"status": {}}
        assert (names["shortNames"], names["categories"]) == (["mdep"], ["paceline"])

    @pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
    def test_has_samples_that_its_schema_accepts(self, path) -> None:
        jsonschema.validate(yaml.safe_load(path.read_text()), root_schema())


class TestShapesWithoutAStructuralForm:
    def test_a_float_is_refused(self) -> None:
        class Wrong(Model):
            seconds: float

        with pytest.raises(TypeError, match="float"):
            structural_schema(Wrong)

    def test_a_boolean_is_refused(self) -> None:
        class Wrong(Model):
            enabled: bool

        with pytest.raises(TypeError, match="boolean"):
            structural_schema(Wrong)

    def test_an_integer_without_bounds_is_refused(self) -> None:
        class Wrong(Model):
            count: int

        with pytest.raises(TypeError, match="bounds"):
            structural_schema(Wrong)

    def test_a_field_of_any_type_is_refused(self) -> None:
        class Wrong(Model):
            anything: Any

        with pytest.raises(TypeError, match="any type"):
            structural_schema(Wrong)

    def test_a_union_is_refused(self) -> None:
        class Wrong(Model):
            either: Model | str

        with pytest.raises(TypeError, match="union"):
            structural_schema(Wrong)

    def test_an_integer_or_string_is_the_one_union_that_kubernetes_has(self) -> None:
        class Right(Model):
            port: int | str

        assert structural_schema(Right)["properties"]["port"] == {"x-kubernetes-int-or-string": True}

    def test_a_large_bound_takes_64_bits(self) -> None:
        class Right(Model):
            count: Annotated[int, Field(ge=0, le=2**40)]

        assert structural_schema(Right)["properties"]["count"]["format"] == "int64"
