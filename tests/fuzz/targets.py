"""All fuzz targets, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.fuzz import documents, front_door, intake, prompts, tenants, traces
from tests.fuzz.target import Target

TARGETS: Final[Mapping[str, type[Target]]] = {
    kind.name: kind for module in (front_door, documents, intake, prompts, tenants, traces) for kind in module.TARGETS
}
