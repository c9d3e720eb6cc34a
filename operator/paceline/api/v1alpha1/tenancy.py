"""``spec.tenancy``: who may send requests, and how much."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from paceline.api.v1alpha1.base import DnsLabel, Model, Priority, SecretKey, Tokens, named_list

TokenQuota = Annotated[int, Field(ge=1, le=1_000_000_000_000)]


class TenancyMode(StrEnum):
    """Whether requests need an API key."""

    OPEN = "Open"
    API_KEYS = "ApiKeys"


class Tenant(Model):
    """Somebody who sends requests."""

    name: DnsLabel
    """Name of the tenant, in metrics and in messages."""
    api_keys_secret: SecretKey
    """Secret that holds the tenant's API keys, one a line. Several keys at a time allow replacing one."""
    priority: Priority = 0
    """Added to the priority of the request's class. Higher goes first."""
    tokens_per_minute: TokenQuota | None = None
    """Most tokens in a minute, uncached prompt and output together. Left out, there is no limit."""
    max_running_requests: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most requests at a time. Left out, there is no limit."""
    reasoning_tokens: Tokens | None = None
    """Most reasoning tokens in one request. Left out, it is `tenancy.reasoningTokens`."""


class Tenancy(Model):
    """Who may send requests, and how much."""

    mode: TenancyMode = TenancyMode.OPEN
    """Open serves everybody who reaches the router, ApiKeys only the tenants."""
    tenants: Annotated[tuple[Tenant, ...], named_list("name", at_most=256)] = ()
    """Tenants, with mode ApiKeys."""
    reasoning_tokens: Tokens | None = None
    """Most reasoning tokens in one request. Left out, there is no limit."""
