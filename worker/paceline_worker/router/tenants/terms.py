"""What a tenant's terms change in its requests before anything else sees them."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Final

import msgspec

from paceline.api import wire
from paceline_worker.router.hints import NO_HINTS, Hints
from paceline_worker.router.parse import Call, Kind, optional_integer

SALT: Final = "cache_salt"
REASONING: Final = "thinking_token_budget"
"""vLLM's name. There -1 means without limit."""
PRIORITY: Final = "priority"


class Terms:
    """``tenant`` None: only the limits on reasoning, for everybody."""

    def __init__(
        self, *, reasoning_tokens: int | None, tenant: wire.Tenant | None = None, isolate: bool = False
    ) -> None:
        self._reasoning_tokens = reasoning_tokens
        self._tenant = tenant
        self._isolate = isolate

    def impose(self, call: Call, *, class_reasoning_tokens: int | None = None) -> Call:
        """The request as it is served; of two limits on reasoning the lower one holds. Raises ApiError 400 for a limit
        on reasoning that is no number.
        """
        fields, salt = dict(call.fields), call.salt
        limits = [most for most in (self._reasoning_tokens, class_reasoning_tokens) if most is not None]
        if limits and call.kind is not Kind.OTHER:
            asked, most = optional_integer(fields, REASONING), min(limits)
            if asked is None or not 0 <= asked <= most:
                fields[REASONING] = msgspec.Raw(b"%d" % most)
        if self._tenant is None:
            return msgspec.structs.replace(call, fields=fields)
        if self._isolate:
            salt = _salt(self._tenant.name, fields.get(SALT))
            fields[SALT] = msgspec.Raw(msgspec.json.encode(salt))
        view = call.view
        if view.priority > 0:  # the engines' own order is not for one tenant to jump either
            del fields[PRIORITY]
        view = msgspec.structs.replace(
            view, priority=min(0, view.priority), tenant=self._tenant.name, weight=self._tenant.weight
        )
        return msgspec.structs.replace(call, fields=fields, salt=salt, view=view, standing=self._tenant.priority)

    def limit(self, hints: Hints, class_priority: int) -> Hints:
        """A tenant may put its requests behind those of its class, not before them: there others wait too. Its
        sessions are its own, whatever it calls them.
        """
        if self._tenant is None or hints is NO_HINTS:
            return hints
        priority = None if hints.priority is None else min(hints.priority, class_priority)
        return replace(hints, priority=priority, session=self._own(hints.session), parent=self._own(hints.parent))

    def _own(self, session: str | None) -> str | None:
        return None if session is None or self._tenant is None else f"{self._tenant.name}/{session}"


def _salt(tenant: str, own: msgspec.Raw | None) -> str:
    """A salt that no other tenant's request can have, whatever it asks for, in the form that vLLM accepts.

    A digest has 64 characters and a tenant's name at most 63.
    """
    if own is None or bytes(own) == b"null":
        return tenant
    return sha256(b"%b\0%b" % (tenant.encode(), bytes(own))).hexdigest()
