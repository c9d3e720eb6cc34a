"""Misbehaviour on request, for tests of what stands in front of an engine. Off unless ``--enable-faults`` is given."""

from __future__ import annotations

import asyncio
import os
from typing import Final

import msgspec

from paceline_worker.emulator.errors import malformed

DEATH_STATUS: Final = 86
"""Exit status of an emulator that was told to die."""


class FaultSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What goes wrong. Each POST replaces all of it."""

    freeze: bool = False
    """No step is done; connections stay open."""
    slow: float = 1.0
    """Factor on all modelled time."""
    refuse_status: int = 0
    """Answer new requests with this status."""
    garbage: bool = False
    """Streams hold bytes that are no events."""
    die_after_tokens: int | None = None
    """Exit without a word after so many more tokens."""
    repetition: bool = False
    """Say the same token for ever."""
    drop_transfers: bool = False
    """Fetch no KV blocks."""


class Faults:
    """The current misbehaviour."""

    def __init__(self) -> None:
        self.now = FaultSettings()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._tokens_left: int | None = None

    def replace(self, body: bytes) -> None:
        """Take new settings. Raises ApiError 400."""
        try:
            settings = msgspec.json.decode(body, type=FaultSettings)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise malformed(str(error)) from None
        if not 0 < settings.slow < float("inf"):
            raise malformed(f"slow must be positive, got {settings.slow}", "slow")
        if settings.refuse_status and not 400 <= settings.refuse_status <= 599:
            raise malformed(f"refuseStatus must be 400 to 599, got {settings.refuse_status}", "refuseStatus")
        self.now = settings
        self._tokens_left = settings.die_after_tokens
        if settings.freeze:
            self._thawed.clear()
        else:
            self._thawed.set()

    async def wait_thawed(self) -> None:
        """Return at once unless frozen."""
        await self._thawed.wait()

    def count_token(self) -> None:
        """Die if it is time."""
        if self._tokens_left is not None:
            self._tokens_left -= 1
            if self._tokens_left < 0:
                os._exit(DEATH_STATUS)
