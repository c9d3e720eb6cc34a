"""Manifests that several test packages read: samples, refused documents, and a small valid one to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from paceline.api.v1alpha1 import ModelDeployment, from_manifest, load

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
INVALID = sorted((Path(__file__).parent / "invalid").glob("*.yaml"))
INVALID_UPDATES = sorted((Path(__file__).parent / "invalid_updates").glob("*.yaml"))

_POOL = {"maxReplicas": 2, "accelerator": {"count": 1}}
_MINIMAL: dict[str, Any] = {
    "apiVersion": "paceline.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "small"},
    "spec": {
        "model": {"name": "Qwen/Qwen3-32B"},
        "slo": {"ttftMilliseconds": 2000, "itlMilliseconds": 50},
        "pools": {"prefill": _POOL, "decode": _POOL},
    },
}


def minimal_manifest() -> dict[str, Any]:
    """The smallest valid manifest, to be changed at will."""
    # Through JSON, so that no two places share an object: YAML would write the second as an alias.
    manifest: dict[str, Any] = json.loads(json.dumps(_MINIMAL))
    return manifest


def changed(path: str, value: Any) -> dict[str, Any]:
    """The smallest valid manifest with one field set; ``path`` as in ``spec.slo.targetPercent``."""
    manifest = minimal_manifest()
    *parents, last = path.split(".")
    target = manifest
    for part in parents:
        target = target.setdefault(part, {})
    target[last] = value
    return manifest


def deployment(**sections: Any) -> ModelDeployment:
    """The smallest valid deployment with whole sections of its spec replaced or added."""
    manifest = minimal_manifest()
    manifest["spec"].update(sections)
    return from_manifest(manifest, "test")


def sample(name: str) -> ModelDeployment:
    """One of the samples, by the name of its file."""
    path = ROOT / "manifests" / "samples" / f"{name}.yaml"
    return load(path.read_text(), path.name)


def expected_refusal(path: Path) -> str:
    """What the first line of a refused document says about it: a field's path and the start of the message."""
    return path.read_text().splitlines()[0].partition("efused")[2].partition(": ")[2]


def update_pair(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The accepted and the refused document of an update."""
    old, new = yaml.safe_load_all(path.read_text())
    return old, new
