"""Decides which children differ from what is wanted, so that a pass over a healthy deployment writes nothing.

A child is out of date when the hash of its manifest is another one (something was added, changed or removed in what is
wanted) or when a field that the manifest sets has another value in the cluster (somebody edited it). Fields that the
manifest does not set belong to others.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from paceline.api import labels
from paceline.controller.api import Json
from paceline.policy.resources.common import short_hash


def stamped(manifest: Json) -> Json:
    """The manifest with its own hash in an annotation. Engines get their ``replicas`` after it: they change without
    the rest.
    """
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), labels.APPLIED: short_hash(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Paths of the fields of ``wanted`` that ``found`` has not, or has with another value."""
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            # The server leaves out empty objects such as ``emptyDir`` of nothing in some places.
            return [path] if wanted or found is not None else []
        return [
            entry
            for key, value in wanted.items()
            for entry in differences(value, found.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(wanted, list | tuple):
        if not isinstance(found, list):
            return [path] if wanted or found is not None else []
        if len(wanted) != len(found):
            return [path]
        return [
            entry
            for index, value in enumerate(wanted)
            for entry in differences(value, found[index], f"{path}[{index}]")
        ]
    return [] if wanted == found else [path]


def edited_by_hand(wanted: Json, found: Json) -> list[str]:
    """Paths that differ although the child was made from this very manifest: somebody changed them since."""
    stamp = (found["metadata"].get("annotations") or {}).get(labels.APPLIED)
    if stamp != wanted["metadata"]["annotations"][labels.APPLIED]:
        return []
    return differences(wanted, found)


class AppliedAsIs:
    """Remembers what the server made of a manifest. It writes some values in other words (``1000m`` as ``1``); without
    this, such a child would be applied on every pass. Bounded by the children that there are: forgotten with their
    ModelDeployment.
    """

    def __init__(self) -> None:
        self._answers: dict[Hashable, dict[tuple[str, str], tuple[str, str]]] = {}

    def remember(self, deployment: Hashable, kind: str, manifest: Json, answer: Json) -> None:
        """``manifest`` was applied for ``deployment`` and became ``answer``."""
        metadata = manifest["metadata"]
        known = self._answers.setdefault(deployment, {})
        known[kind, metadata["name"]] = metadata["annotations"][labels.APPLIED], _edition(answer)

    def is_current(self, deployment: Hashable, kind: str, manifest: Json, found: Json) -> bool:
        """Whether ``found`` is what the server made of this very manifest."""
        metadata = manifest["metadata"]
        known = self._answers.get(deployment, {}).get((kind, metadata["name"]))
        return known == (metadata["annotations"][labels.APPLIED], _edition(found))

    def forget(self, deployment: Hashable) -> None:
        """The ModelDeployment is gone."""
        self._answers.pop(deployment, None)


def _edition(found: Json) -> str:
    """What changes with the child's own fields, and for kinds that count generations not with its status."""
    metadata = found["metadata"]
    return f"{metadata['uid']}/{metadata.get('generation') or metadata['resourceVersion']}"
