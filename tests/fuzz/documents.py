"""Manifests and documents between processes: whatever comes, the answer is a value or an error for a user.

For manifests the models and the CRD are asked the same question: what one refuses, the other must refuse.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema
import yaml
from jsonschema import Draft202012Validator, ValidationError

from paceline.api import wire
from paceline.api.crd import custom_resource_definition
from paceline.api.v1alpha1 import from_manifest, load
from paceline.api.yaml_reader import read_document
from paceline.errors import ConfigError, SpecError
from paceline_worker.router.fleet_file import FleetFile
from tests.api.cel import broken_rules
from tests.api.documents import INVALID, SAMPLES
from tests.fuzz.inputs import json_bytes, mutated, spoiled
from tests.fuzz.target import Found, Plain

MAP_KEYS: Final = "x-kubernetes-list-map-keys"

_DOCUMENTS: Final = [path.read_bytes() for path in (*SAMPLES, *INVALID)]
_MANIFESTS: Final = [yaml.safe_load(text) for text in _DOCUMENTS]
_METADATA: Final = [manifest["metadata"] for manifest in _MANIFESTS]
_YAML: Final = (
    b"&a", b"*a", b"<<:", b"!!python/object:os.system", b"!!binary", b"---\n", b"...\n", b"? ", b"- ", b": ", b"|\n",
    b">-\n", b"%YAML 1.1\n", b"\t", b"'", b'"', b"{", b"[", b"#", b"@", b"`", b"2001-01-01", b"0o7", b".nan", b"1_0",
    b"=", b"~", b"yes", b"\xef\xbb\xbf", b"\x85", b"\xe2\x80\xa8", b"1:30", b"!<", b"!e!x", b"\\x", b'"\\u', b"0x",
)  # fmt: skip


class Yaml(Plain):
    """The reader of YAML files, with everything behind it."""

    name = "yaml"
    share = 8

    def make(self, rng: random.Random) -> bytes:
        return mutated(rng, rng.choice(_DOCUMENTS), _DOCUMENTS, _YAML)

    def check(self, data: bytes) -> None:
        try:
            document = read_document(data, "fuzz")
        except SpecError:
            return
        json.dumps(document, allow_nan=True)  # nothing but JSON's types comes out of it
        try:
            load(data, "fuzz")
        except SpecError as error:
            _readable(error)


class Manifests(Plain):
    """Parsed manifests: the models against the CRD."""

    name = "manifests"
    share = 12

    def __init__(self) -> None:
        (version,) = custom_resource_definition()["spec"]["versions"]
        self._schema = version["schema"]["openAPIV3Schema"]
        self._validator = _ApiServer(_closed(self._schema))
        self._names = sorted(set(_property_names(self._schema["properties"]["spec"])))

    def make(self, rng: random.Random) -> bytes:
        manifest = rng.choice(_MANIFESTS)
        part = {**manifest, "spec": spoiled(rng, manifest["spec"], self._names)}
        return json.dumps(part if rng.random() < 0.95 else spoiled(rng, manifest, self._names)).encode()

    def check(self, data: bytes) -> None:
        manifest = json.loads(data)
        try:
            from_manifest(manifest, "fuzz")
            refused = False
        except SpecError as error:
            _readable(error)
            refused = True
        if not _comparable(manifest):
            return
        by_crd = self._refused_by_the_crd(_without_nulls(manifest))
        if by_crd and not refused:
            raise Found(f"the CRD refuses what the models take: {by_crd}")
        if refused and not by_crd:
            raise Found("the models refuse what the CRD takes")

    def _refused_by_the_crd(self, manifest: Any) -> str:
        wrong = next(self._validator.iter_errors(manifest), None)
        if wrong is not None:
            return f"{'.'.join(map(str, wrong.absolute_path))}: {wrong.message[:80]}"
        if _repeated(self._schema, manifest):
            return "a name is twice in a list"
        return next(broken_rules(self._schema, manifest), "")


class Wire(Plain):
    """What processes tell one another, and the fleet file with it."""

    name = "wire"
    share = 8

    def __init__(self) -> None:
        objective = wire.Objective(ttft_milliseconds=1, itl_milliseconds=1)
        source = wire.ModelSource(kind=wire.SourceKind.LOCAL, reference="/m")
        engine = wire.EngineEndpoint(
            name="e", host="h", port=1, role=wire.Role.BOTH, state=wire.EngineState.READY, start_id="1"
        )
        tenancy = wire.Tenancy(tenants=(wire.Tenant(name="t"),))
        self._kinds: tuple[type[Any], ...] = (wire.Fleet, wire.RouterConfig, wire.EngineConfig)
        made = (
            wire.Fleet(version=1, engines=(engine,)),
            wire.RouterConfig(
                deployment="d", namespace="n", served_names=("m",), objective=objective, tenancy=tenancy,
                classes=(wire.RequestClass(name="c", priority=1, objective=objective),),
            ),
            wire.EngineConfig(deployment="d", namespace="n", model="m", served_names=("m",), source=source),
        )  # fmt: skip
        self._documents = [json.loads(wire.encode(one)) for one in made]
        self._names = sorted({name for one in self._documents for name in _keys(one)})
        self._taken: list[wire.Fleet] = []

    def make(self, rng: random.Random) -> bytes:
        data = json_bytes(rng, spoiled(rng, rng.choice(self._documents), self._names))
        return mutated(rng, data) if rng.random() < 0.3 else data

    def check(self, data: bytes) -> None:
        for kind in self._kinds:
            try:
                found = wire.decode(kind, data, source="fuzz")
            except ConfigError:
                continue
            if wire.decode(kind, wire.encode(found), source="fuzz") != found:
                raise Found("a document is another one after it was written and read")
        refused: list[bool] = []
        path = Path(self._folder) / "fleet.json"
        path.write_bytes(data)
        FleetFile(path, self._taken.append, lambda: refused.append(True)).poll()
        if len(self._taken) + len(refused) != 1:
            raise Found("the fleet file was neither taken nor refused")
        self._taken.clear()

    @property
    def _folder(self) -> str:
        return scratch()


def scratch() -> str:
    """A folder for files that targets must read from somewhere."""
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
    mine = folder / "paceline-fuzz"
    mine.mkdir(exist_ok=True)
    return str(mine)


def _readable(error: SpecError) -> None:
    if not error.problems or len(str(error)) > 200_000:
        raise Found("a refusal without a problem, or without an end")
    str(error).encode("utf-8", "backslashreplace")


def _closed(schema: Any, *, top: bool = True) -> Any:
    """The schema as strict field validation reads it: unknown fields are refused, below the metadata's level."""
    if not isinstance(schema, dict):
        return schema
    result = {key: value for key, value in schema.items() if key not in ("default", "description")}
    if "properties" in result:
        result["properties"] = {name: _closed(item, top=False) for name, item in result["properties"].items()}
        result["additionalProperties"] = False
    if "items" in result:
        result["items"] = _closed(result["items"], top=False)
    if top:
        # Of the metadata only the name is ours to judge, and the status is the controller's.
        result["properties"] = {"spec": result["properties"]["spec"]}
        result["additionalProperties"] = True
    return result


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    """Python's ``$`` also matches before a last line feed; Go's and Rust's do not."""
    anchored = pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern
    if isinstance(value, str) and not re.search(anchored, value):
        yield ValidationError(f"does not match {pattern}")


_ApiServer = jsonschema.validators.extend(Draft202012Validator, {"pattern": _pattern})


def _comparable(manifest: Any) -> bool:
    """Whether the CRD can be asked: apart from what our schema does not say, or JSON Schema says differently."""
    if not isinstance(manifest, Mapping) or not isinstance(manifest.get("metadata"), Mapping):
        return False
    if manifest.get("kind") != "ModelDeployment" or manifest.get("apiVersion") != "paceline.dev/v1alpha1":
        return False
    if set(manifest) != {"kind", "apiVersion", "metadata", "spec"} or manifest["metadata"] not in _METADATA:
        return False
    return all(_plain(value) for value in _leaves(manifest))


def _plain(value: Any) -> bool:
    if isinstance(value, float):
        return False  # 1.0 is an integer in JSON Schema, and lone surrogates are characters in Python
    if isinstance(value, str):
        # White space beyond ASCII, and what Go replaces when it reads JSON.
        return not any("\ud800" <= character <= "\udfff" for character in value) and value.isascii()
    return True


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        given = {key: item for key, item in value.items() if item is not None}
        return {key: _fields(item) if key == "podTemplate" else _without_nulls(item) for key, item in given.items()}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _fields(template: Any) -> Any:
    """What is in a pod template's fields is somebody else's, nulls among it; the fields themselves are ours."""
    if not isinstance(template, Mapping):
        return template
    return {key: item for key, item in template.items() if item is not None}


def _repeated(schema: Mapping[str, Any], value: Any) -> bool:
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        return any(_repeated(known[key], item) for key, item in value.items() if key in known)
    if isinstance(value, list) and "items" in schema:
        keys = schema.get(MAP_KEYS)
        if keys and len({tuple(item.get(key) for key in keys) for item in value}) < len(value):
            return True
        return any(_repeated(schema["items"], item) for item in value)
    return False


def _property_names(schema: Mapping[str, Any]) -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        yield name
        yield from _property_names(child)
    if "items" in schema:
        yield from _property_names(schema["items"])


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)


TARGETS: Final = (Yaml, Manifests, Wire)
