"""The manifest with other pools: what the search simulates, and in the end what it recommends."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from paceline.api.labels import API_VERSION, KIND
from paceline.api.v1alpha1 import ModelDeployment, PoolMode, from_manifest
from paceline.planning.layouts import EngineOption


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Engines of each role; aggregated ones count as prefill."""

    prefill: tuple[int, int]
    decode: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tweaks:
    """Settings that the search tries; None leaves what the manifest says."""

    local_prefill_tokens: int | None = None
    scale_down_window_seconds: int | None = None

    def __str__(self) -> str:
        parts = []
        if self.local_prefill_tokens is not None:
            parts.append(f"localPrefillTokens {self.local_prefill_tokens}")
        if self.scale_down_window_seconds is not None:
            parts.append(f"scaleDownWindowSeconds {self.scale_down_window_seconds}")
        return ", ".join(parts)


def variant(
    md: ModelDeployment,
    option: EngineOption,
    mode: PoolMode,
    bounds: Bounds,
    *,
    gpu_budget: int | None,
    tweaks: Tweaks | None = None,
) -> dict[str, Any]:
    """A manifest like ``md`` on engines of ``option``. Everything that isn't about the search stays as it was."""
    dumped = md.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    spec: dict[str, Any] = dict(dumped["spec"])
    pools = md.spec.pools
    first = next(pool for pool in (pools.prefill, pools.aggregated, pools.decode) if pool is not None)
    base = first.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    spread: dict[str, Any] = dict(base.pop("parallelism", spec.get("engine", {}).get("parallelism", {})))
    spread["tensor"] = option.tensor
    engine: dict[str, Any] = {**spec.get("engine", {}), "parallelism": spread}
    if option.gpus and first.accelerator.count >= md.spec.parallelism_of(first).accelerators:
        # One pod an engine, as before. An engine of several pods keeps the size of its pods.
        base["accelerator"] = {**base["accelerator"], "count": option.gpus}

    def pool(least_most: tuple[int, int]) -> dict[str, Any]:
        return {**deepcopy(base), "minReplicas": least_most[0], "maxReplicas": least_most[1]}

    scaling: dict[str, Any] = {key: value for key, value in spec.get("scaling", {}).items() if key != "gpuBudget"}
    if gpu_budget and option.gpus:
        scaling["gpuBudget"] = gpu_budget
    routing: dict[str, Any] = dict(spec.get("routing", {}))
    if mode is PoolMode.AGGREGATED:
        made = {"mode": str(mode), "aggregated": pool(bounds.prefill)}
        # All about engines that do one thing only.
        routing.pop("localPrefillTokens", None)
        routing.pop("coldWarmSplit", None)
        engine.pop("connector", None)
    else:
        made = {"mode": str(mode), "prefill": pool(bounds.prefill), "decode": pool(bounds.decode)}
        if engine.get("connector") == "None":
            engine.pop("connector")
    if tweaks is not None:
        if tweaks.local_prefill_tokens is not None and mode is PoolMode.DISAGGREGATED:
            routing["localPrefillTokens"] = tweaks.local_prefill_tokens
        if tweaks.scale_down_window_seconds is not None:
            scaling["scaleDownWindowSeconds"] = tweaks.scale_down_window_seconds
    spec |= {"engine": engine, "pools": made}
    for name, section in (("scaling", scaling), ("routing", routing)):
        if section:
            spec[name] = section
        else:
            spec.pop(name, None)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": _metadata(dumped["metadata"]), "spec": spec}


def parsed(manifest: Mapping[str, Any]) -> ModelDeployment:
    """The manifest as a resource. Raises SpecError if something in it does not go with other pools."""
    return from_manifest(manifest, "the manifest with other pools")


def _metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key in ("name", "namespace", "labels", "annotations")
        if (value := metadata.get(key)) and not (key == "namespace" and value == "default")
    }
