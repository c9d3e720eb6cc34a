"""``spec.slo``: the latency objective that sizing, routing and admission all work towards."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from paceline.api.v1alpha1.base import DnsLabel, Milliseconds, Model, Percent, Priority, Tokens, named_list


class Objective(Model):
    """A share of requests that is to stay within both limits."""

    ttft_milliseconds: Milliseconds
    """Longest time from the arrival of a request to its first token."""
    itl_milliseconds: Annotated[int, Field(ge=1, le=60_000)]
    """Longest mean time between the tokens of one request."""
    target_percent: Percent = 95
    """Share of requests that is to stay within both limits."""


class RequestClass(Objective):
    """A kind of request with an objective of its own, chosen by the client with a header."""

    name: DnsLabel
    """Name of the class, for example `interactive` or `batch`."""
    priority: Priority = 0
    """Higher goes first. Requests without a class have priority 0."""
    reasoning_tokens: Tokens | None = None
    """Most reasoning tokens in one request; needs `--reasoning-parser` or `--reasoning-config` in `engine.extraArgs`. A
    tenant's own limit holds besides. Left out, there is none of the class.
    """


class Slo(Objective):
    """The latency objective of all requests that belong to no class, and the classes."""

    classes: Annotated[tuple[RequestClass, ...], named_list("name", at_most=16)] = ()
    """Kinds of requests with objectives of their own."""
