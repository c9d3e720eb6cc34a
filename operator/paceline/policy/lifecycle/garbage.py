"""ConfigMaps of older revisions that nothing reads any more. Pure; the controller deletes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from paceline.policy.lifecycle.observed import Pod

Json = Mapping[str, Any]


def unreferenced_config_maps(
    found: Sequence[Json], wanted: Iterable[Json], workloads: Iterable[Json], pods: Sequence[Pod]
) -> tuple[tuple[str, str], ...]:
    """Name and uid of each immutable ConfigMap in ``found`` that is not ``wanted`` and that no workload refers to.

    Pods outlive their workloads by the time that they take to stop, but read their configuration at start only; those
    of a Deployment that still rolls its router out keep theirs while any pod of ``pods`` is not ready.
    """
    if not found or any(not pod.ready and not pod.deleting for pod in pods):
        return ()
    needed = {manifest["metadata"]["name"] for manifest in wanted if manifest["kind"] == "ConfigMap"}
    for workload in workloads:
        needed.update(_references(workload.get("spec") or {}))
    return tuple(
        (each["metadata"]["name"], each["metadata"]["uid"])
        for each in found
        if each.get("immutable") and each["metadata"]["name"] not in needed
    )


def _references(value: Any) -> Iterator[str]:
    """Names in every ``configMapKeyRef`` within ``value``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "configMapKeyRef" and isinstance(item, Mapping):
                yield str(item.get("name", ""))
            else:
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)
