"""``spec.tenancy``: who may send requests, and how much."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from paceline.api.v1alpha1.base import DnsLabel, Model, ModelName, Priority, SecretKey, Tokens, named_list, plain_list

TokenQuota = Annotated[int, Field(ge=1, le=1_000_000_000_000)]


class TenancyMode(StrEnum):
    """Whether requests need an API key."""

    OPEN = "Open"
    API_KEYS = "ApiKeys"


class CacheIsolation(StrEnum):
    """Whether tenants can profit from one another's prompts, and so find out about them by how fast an answer comes."""

    PER_TENANT = "PerTenant"
    SHARED = "Shared"


class Tenant(Model):
    """Somebody who sends requests."""

    name: DnsLabel
    """Name of the tenant, in metrics and in messages."""
    api_keys_secret: SecretKey
    """Secret that holds the tenant's API keys, one a line. Several keys at a time allow replacing one."""
    priority: Priority = 0
    """Added to the priority of the request's class. Higher goes first."""
    share_weight: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Its part of the tokens, beside the weights of others, while tenants of one priority wait."""
    tokens_per_minute: TokenQuota | None = None
    """Most tokens in a minute, uncached prompt and output together, over all routers. Left out, there is no limit."""
    input_tokens_per_minute: TokenQuota | None = None
    """Most uncached prompt tokens in a minute, over all routers. Left out, there is no limit."""
    output_tokens_per_minute: TokenQuota | None = None
    """Most output tokens in a minute, over all routers. Left out, there is no limit."""
    max_running_requests: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most requests at a time, waiting ones among them, over all routers. Left out, there is no limit."""
    models: Annotated[tuple[ModelName, ...], plain_list(at_most=64)] = ()
    """Names that it may use, of the model and of LoRA adapters. Left out, all."""
    reasoning_tokens: Tokens | None = None
    """Most reasoning tokens in one request. Left out, it is `tenancy.reasoningTokens`."""


class Tenancy(Model):
    """Who may send requests, and how much."""

    mode: TenancyMode = TenancyMode.OPEN
    """Open serves everybody who reaches the router, ApiKeys only the tenants."""
    tenants: Annotated[tuple[Tenant, ...], named_list("name", at_most=256)] = ()
    """Tenants, with mode ApiKeys."""
    cache_isolation: CacheIsolation = CacheIsolation.PER_TENANT
    """PerTenant keeps their KV caches apart, Shared lets a prompt be computed once for all. With mode ApiKeys."""
    reasoning_tokens: Tokens | None = None
    """Most reasoning tokens in one request; needs `--reasoning-parser` or `--reasoning-config` in `engine.extraArgs`.
    Left out, there is no limit.
    """
