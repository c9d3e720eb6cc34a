"""Misbehaviour on request, for tests of what stands in front of an engine. Off unless ``--enable-faults`` is given."""

from __future__ import annotations

import asyncio
import os
from typing import Final

import msgspec

from paceline.unreadable import UNREADABLE
from paceline_worker.emulator.errors import malformed

DEATH_STATUS: Final = 86
"""Exit status of an emulator that was told to die."""


REPEATED_TOKEN: Final = ord("o")
REPEATED_PHRASE: Final = b"and so on "
CYRILLIC: Final = range(0x430, 0x450)
_STEP: Final = 0x9E3779B97F4A7C15
"""Of a Weyl sequence: its letters never repeat a pattern."""


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
    """Say the same token for ever, as vLLM does when its logits are NaN."""
    phrase: bool = False
    """Say the same words for ever."""
    endless: bool = False
    """Never find an end."""
    script: bool = False
    """Say Cyrillic letters, whatever the prompt."""
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
        except UNREADABLE as error:
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

    def says(self, position: int) -> int | None:
        """The token that comes out instead of the right one, after so many others; None where the right one does."""
        now = self.now
        if now.repetition:
            return REPEATED_TOKEN
        if now.phrase:
            return REPEATED_PHRASE[position % len(REPEATED_PHRASE)]
        if now.script:
            return CYRILLIC[(position * _STEP >> 40) % len(CYRILLIC)]
        return None

    async def wait_thawed(self) -> None:
        """Return at once unless frozen."""
        await self._thawed.wait()

    def count_token(self) -> None:
        """Die if it is time."""
        if self._tokens_left is not None:
            self._tokens_left -= 1
            if self._tokens_left < 0:
                os._exit(DEATH_STATUS)
