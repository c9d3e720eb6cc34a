"""The last spec that was accepted, kept in the cluster: while a later edit is not valid, this one stays in force.

It is a ConfigMap and no annotation, so that ``kubectl describe`` of the resource stays readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment
from paceline.policy.resources.common import Manifest, child_metadata, dns_label
from paceline.unreadable import UNREADABLE

KEY: Final = "spec.json"


def accepted_name(name: str) -> str:
    """Name of the ConfigMap that holds the accepted spec of the resource called ``name``."""
    return dns_label(f"{name}-accepted")


def accepted_spec(md: ModelDeployment, spec: Mapping[str, Any]) -> Manifest:
    """The ConfigMap for ``md``. ``spec`` is kept as the user wrote it: nulls in a ``podTemplate`` mean something."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(md, accepted_name(md.metadata.name), labels.COMPONENT_OPERATOR),
        "data": {KEY: msgspec.json.encode(spec, order="deterministic").decode()},
    }


def read_accepted(config_map: Mapping[str, Any]) -> Any:
    """The spec in it as plain JSON; None where somebody made it unreadable."""
    try:
        return msgspec.json.decode((config_map.get("data") or {}).get(KEY, ""))
    except UNREADABLE:
        return None
