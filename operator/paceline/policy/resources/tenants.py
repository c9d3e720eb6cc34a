"""Tenants as routers need them: their limits in the routers' document, their keys as files in the routers' pods.

Keys never pass through the operator: the kubelet reads the Secrets, and renews the files when they change.
"""

from __future__ import annotations

from typing import Final

from paceline.api import wire
from paceline.api.v1alpha1 import CacheIsolation, ModelDeployment, TenancyMode
from paceline.api.v1alpha1.tenancy import Tenant
from paceline.errors import FieldProblem, SpecError
from paceline.policy.resources.common import Manifest

KEYS_FLAG: Final = "--tenant-keys"
KEYS_PATH: Final = "/var/run/paceline/tenants"
"""Has a file for each tenant, of its name, with one key a line."""
VOLUME: Final = "tenant-keys"
REASONING_FLAGS: Final = ("--reasoning-parser", "--reasoning-config")
"""One of them makes vLLM know where reasoning ends. Without, it refuses requests that limit it."""


def tenancy(md: ModelDeployment) -> wire.Tenancy | None:
    """Tenants of one router; None where everybody is served. Raises SpecError for a model that is not served, and for
    a limit on reasoning that engines can't keep.
    """
    spec = md.spec
    _check_reasoning(md)
    if spec.tenancy.mode is not TenancyMode.API_KEYS:
        return None
    _check_models(md)
    return wire.Tenancy(
        tenants=tuple(_tenant(md, tenant) for tenant in spec.tenancy.tenants),
        isolate_caches=spec.tenancy.cache_isolation is CacheIsolation.PER_TENANT,
    )


def keys_arguments(md: ModelDeployment) -> list[str]:
    """Flags of the router."""
    return [KEYS_FLAG, KEYS_PATH] if _has_keys(md) else []


def keys_volumes(md: ModelDeployment) -> list[Manifest]:
    """One volume of all tenants' keys. A Secret that is missing keeps its own tenant out, and no router from starting;
    one that is deleted takes its keys back.
    """
    if not _has_keys(md):
        return []
    sources = [
        {
            "secret": {
                "name": tenant.api_keys_secret.name,
                "items": [{"key": tenant.api_keys_secret.key, "path": tenant.name}],
                "optional": True,
            }
        }
        for tenant in md.spec.tenancy.tenants
    ]
    return [{"name": VOLUME, "projected": {"sources": sources, "defaultMode": 0o444}}]


def keys_mounts(md: ModelDeployment) -> list[Manifest]:
    """Where the router has it."""
    return [{"name": VOLUME, "mountPath": KEYS_PATH, "readOnly": True}] if _has_keys(md) else []


def _has_keys(md: ModelDeployment) -> bool:
    return md.spec.tenancy.mode is TenancyMode.API_KEYS


def _tenant(md: ModelDeployment, tenant: Tenant) -> wire.Tenant:
    own = tenant.reasoning_tokens
    return wire.Tenant(
        name=tenant.name,
        priority=tenant.priority,
        weight=tenant.share_weight,
        tokens_per_minute=_part(tenant.tokens_per_minute, md),
        input_tokens_per_minute=_part(tenant.input_tokens_per_minute, md),
        output_tokens_per_minute=_part(tenant.output_tokens_per_minute, md),
        max_running_requests=_part(tenant.max_running_requests, md),
        reasoning_tokens=md.spec.tenancy.reasoning_tokens if own is None else own,
        models=tenant.models,
    )


def _part(limit: int | None, md: ModelDeployment) -> int | None:
    """What each router may give of it: they don't talk to one another, and the sum is to stay below the limit."""
    return None if limit is None else max(1, limit // md.spec.routing.replicas)


def _check_models(md: ModelDeployment) -> None:
    served = {md.spec.model.client_name, *(adapter.name for adapter in md.spec.model.lora_adapters)}
    problems = [
        FieldProblem(
            f"spec.tenancy.tenants[{number}].models", f"is not served here; use {', '.join(sorted(served))}", name
        )
        for number, tenant in enumerate(md.spec.tenancy.tenants)
        for name in tenant.models
        if name not in served
    ]
    if problems:
        raise SpecError(md.metadata.name, problems)


def _check_reasoning(md: ModelDeployment) -> None:
    limits = {"tenancy.reasoningTokens": md.spec.tenancy.reasoning_tokens}
    for number, tenant in enumerate(md.spec.tenancy.tenants):
        limits[f"tenancy.tenants[{number}].reasoningTokens"] = tenant.reasoning_tokens
    for number, entry in enumerate(md.spec.slo.classes):
        limits[f"slo.classes[{number}].reasoningTokens"] = entry.reasoning_tokens
    if any(argument.startswith(REASONING_FLAGS) for argument in md.spec.engine.extra_args):
        return
    problems = [
        FieldProblem(
            f"spec.{field}",
            "needs engines that know where reasoning ends: add --reasoning-parser=NAME to spec.engine.extraArgs",
            str(limit),
        )
        for field, limit in limits.items()
        if limit is not None
    ]
    if problems:
        raise SpecError(md.metadata.name, problems)
