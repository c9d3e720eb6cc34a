"""Generates the CustomResourceDefinition from the pydantic models: ``python -m paceline.api.crd > crds/…yaml``.

Kubernetes wants a structural schema, which is less than JSON Schema: no references, no unions but int-or-string, no
closed objects. What has no structural form is an error here, so that it can't reach a cluster as a loose type.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from paceline.api import labels
from paceline.api.v1alpha1.resource import ModelDeployment, ModelDeploymentSpec
from paceline.api.v1alpha1.rules import rules_of
from paceline.api.v1alpha1.status import ModelDeploymentStatus

Schema = dict[str, Any]

REF_PREFIX: Final = "#/$defs/"
INT32_MAX: Final = 2**31 - 1
WIDE: Final = 1
"""Priority of printer columns that only ``-o wide`` shows."""


class StructuralSchema(GenerateJsonSchema):
    """JSON Schema as pydantic makes it, with the shapes that a structural schema can't say refused."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        """Never: titles only repeat names."""
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """A field that may be left out: null means the same, and the API server prunes it."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Static defaults. An object's default is whole: the API server checks its rules before it fills in fields."""
        inner = self.generate_inner(schema["schema"])
        default = schema.get("default")
        if default is None or default == ():
            return inner
        if isinstance(default, BaseModel):
            default = _without_empty(default.model_dump(mode="json", by_alias=True))
        # Beside a reference, so that the field keeps its default when the reference is replaced.
        return {**inner, "default": self.encode_default(default)}

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        """Integers need both bounds, and say how many bits they take."""
        result = super().int_schema(schema)
        if "minimum" not in result or "maximum" not in result:
            raise TypeError(f"an integer without bounds: {result}")
        return {**result, "format": "int32" if result["maximum"] <= INT32_MAX else "int64"}

    def union_schema(self, schema: core_schema.UnionSchema) -> JsonSchemaValue:
        """The one union that Kubernetes has: an integer or a string."""
        members = [choice[0] if isinstance(choice, tuple) else choice for choice in schema["choices"]]
        if {member["type"] for member in members} == {"int", "str"}:
            return {"x-kubernetes-int-or-string": True}
        raise TypeError(f"a union has no structural schema: {[member['type'] for member in members]}")

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        """Refused: floats don't survive a round trip. Use integers with the unit in the name."""
        raise TypeError(f"a float in the resource: {schema}")

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        """Refused: a boolean can't get a third value. Use an enum."""
        raise TypeError(f"a boolean in the resource: {schema}")

    def any_schema(self, schema: core_schema.AnySchema) -> JsonSchemaValue:
        """Refused: say what it is, or pass an object through."""
        raise TypeError(f"a field of any type in the resource: {schema}")

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """An object with its cross-field rules. Closed objects don't exist here: the server prunes unknown fields."""
        result = super().model_schema(schema)
        result.pop("additionalProperties", None)
        validations = [
            {
                "rule": rule.cel,
                "message": rule.message,
                "reason": "FieldValueInvalid",
                **({"fieldPath": f".{rule.field}"} if rule.field else {}),
            }
            for rule in rules_of(schema["cls"])
        ]
        if validations:
            result["x-kubernetes-validations"] = validations
        return result


def structural_schema(model: type[BaseModel]) -> Schema:
    """Structural schema of one model, without references."""
    schema = model.model_json_schema(by_alias=True, schema_generator=StructuralSchema)
    definitions = schema.pop("$defs", {})
    for named in (schema, *definitions.values()):
        named.pop("title", None)
    result: Schema = _inline(schema, definitions)
    return result


def _inline(value: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_inline(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        target = definitions[value["$ref"].removeprefix(REF_PREFIX)]
        # What stands beside the reference is about the field: its description wins over the type's.
        value = {**target, **{key: item for key, item in value.items() if key != "$ref"}}
        return _inline(value, definitions)
    result = {key: _inline(item, definitions) for key, item in value.items()}
    if isinstance(result.get("description"), str):
        result["description"] = " ".join(result["description"].split())
    return result


def _without_empty(value: Any) -> Any:
    """Without what a manifest would leave out."""
    if isinstance(value, dict):
        return {key: _without_empty(item) for key, item in value.items() if item is not None and item != []}
    return value


def _column(name: str, path: str, description: str, *, kind: str = "string", priority: int = 0) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path, "description": description}
    if priority:
        column["priority"] = priority
    return column


def _ready() -> str:
    return '.status.conditions[?(@.type=="Ready")]'


def printer_columns() -> list[Schema]:
    """Columns of ``kubectl get mdep``, and those that ``-o wide`` adds."""
    return [
        _column("Model", ".spec.model.name", "Model that is served"),
        _column("Ready", f"{_ready()}.status", "Whether requests are answered"),
        _column("Prefill", ".status.roles.prefill.summary", "Prefill engines: ready of desired"),
        _column("Decode", ".status.roles.decode.summary", "Decode engines: ready of desired"),
        _column("SLO", ".status.slo.summary", "Requests within the objective, and the target"),
        _column("Age", ".metadata.creationTimestamp", "Time since creation", kind="date"),
        _column("Mode", ".spec.pools.mode", "Disaggregated or Aggregated", priority=WIDE),
        _column("Engines", ".status.engines", "All engines: ready of desired", priority=WIDE),
        _column("Ratio", ".status.ratio", "Prefill to decode engines", priority=WIDE),
        _column("Scaling", ".spec.scaling.mode", "Who decides on the number of engines", priority=WIDE),
        _column("TTFT-ms", ".spec.slo.ttftMilliseconds", "Objective for TTFT", kind="integer", priority=WIDE),
        _column("ITL-ms", ".spec.slo.itlMilliseconds", "Objective for ITL", kind="integer", priority=WIDE),
        _column("Reason", f"{_ready()}.reason", "Why it is ready, or not", priority=WIDE),
        _column("Endpoint", ".status.endpoint", "Address of the API", priority=WIDE),
    ]


def custom_resource_definition() -> Schema:
    """The CRD as a plain dict."""
    root = {
        "description": " ".join((ModelDeployment.__doc__ or "").split()),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this schema."},
            "kind": {"type": "string", "description": "Kind of the resource."},
            "metadata": {"type": "object"},
            "spec": structural_schema(ModelDeploymentSpec),
            "status": structural_schema(ModelDeploymentStatus),
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{labels.PLURAL}.{labels.GROUP}"},
        "spec": {
            "group": labels.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": labels.KIND,
                "listKind": f"{labels.KIND}List",
                "plural": labels.PLURAL,
                "singular": labels.SINGULAR,
                "shortNames": [labels.SHORT_NAME],
                "categories": [labels.CATEGORY],
            },
            "versions": [
                {
                    "name": labels.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": printer_columns(),
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def render() -> str:
    """The CRD as YAML, byte for byte the same on every run."""
    document = custom_resource_definition()
    header = "# Generated from paceline.api.v1alpha1 by `python -m paceline.api.crd`; do not edit.\n"
    return header + yaml.dump(document, Dumper=PlainDumper, sort_keys=False, width=120, allow_unicode=True)


class PlainDumper(yaml.SafeDumper):
    """SafeDumper that repeats equal parts instead of referring to them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - yaml's signature
        """None is referred to."""
        return True


if __name__ == "__main__":
    sys.stdout.write(render())
