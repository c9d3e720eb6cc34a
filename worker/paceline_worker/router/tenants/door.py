"""Whose request it is: the accounts of all tenants, behind their keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from paceline.api import wire
from paceline.clock import Clock
from paceline_worker.http.message import Request
from paceline_worker.router.errors import ApiError
from paceline_worker.router.parse import Rules
from paceline_worker.router.tenants.accounts import Account, Usage
from paceline_worker.router.tenants.allowance import Allowance
from paceline_worker.router.tenants.keys import KeyRing
from paceline_worker.router.tenants.terms import Terms

AUTHORIZATION: Final = b"authorization"
CHALLENGE: Final = (b"www-authenticate", b"Bearer")
MOST_SHOWN: Final = 100
"""Tenants that metrics tell apart; the others are counted together."""
OTHERS: Final = "other"


class Door:
    """Lets tenants in. ``models``: the list of models of those who may use these names."""

    def __init__(
        self,
        tenancy: wire.Tenancy,
        keys: KeyRing,
        rules: Rules,
        models: Callable[[frozenset[str]], bytes],
        clock: Clock,
    ) -> None:
        self.keys = keys
        self.usage: dict[str, Usage] = {}
        """By the label of the metrics."""
        self.accounts: dict[str, Account] = {}
        for number, tenant in enumerate(tenancy.tenants):
            label = tenant.name if number < MOST_SHOWN else OTHERS
            own = _narrowed(rules, tenant)
            self.accounts[tenant.name] = Account(
                tenant.name,
                Terms(reasoning_tokens=tenant.reasoning_tokens, tenant=tenant, isolate=tenancy.isolate_caches),
                own,
                models(own.models),
                self.usage.setdefault(label, Usage()),
                clock,
                max_running=tenant.max_running_requests,
                allowance=Allowance(tenant, clock.monotonic()),
            )

    def enter(self, request: Request) -> Account:
        """The account that a request goes to. Raises ApiError 401, always the same."""
        name = self.keys.owner(request.header(AUTHORIZATION))
        if name is None:
            raise Unauthorized
        return self.accounts[name]


class Unauthorized(ApiError):
    """401. Says nothing about what was wrong with the key, or whether there was one."""

    def __init__(self) -> None:
        super().__init__(401, "A valid API key is needed: Authorization: Bearer KEY.")
        self.headers = (CHALLENGE,)


def _narrowed(rules: Rules, tenant: wire.Tenant) -> Rules:
    if not tenant.models:
        return rules
    allowed = rules.models.intersection(tenant.models)
    adapters = rules.adapters & allowed
    return replace(rules, models=allowed, adapters=adapters, must_name=allowed == adapters)
