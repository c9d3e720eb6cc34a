"""Batches of cache events off the wire: decoded strictly and fast, or else event by event, skipping the bad ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from paceline.policy.routing.kv_events import Event, EventBatch
from paceline.unreadable import UNREADABLE

SEQUENCE_BYTES: Final = 8
END_OF_REPLAY: Final = (-1).to_bytes(SEQUENCE_BYTES, "big", signed=True)


class _LooseBatch(msgspec.Struct, array_like=True):
    ts: float
    events: list[msgspec.Raw]


_BATCH: Final = msgspec.msgpack.Decoder(EventBatch)
_LOOSE: Final = msgspec.msgpack.Decoder(_LooseBatch)
_EVENT: Final = msgspec.msgpack.Decoder(Event)


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of one batch that could be read."""

    at: float
    """Seconds since the Unix epoch, on the engine's clock."""
    events: list[Event]
    unreadable: int = 0
    """Events of a kind or shape that is not known."""


def read_batch(payload: bytes) -> Batch | None:
    """Decode one batch; None when it is not one at all."""
    try:
        batch = _BATCH.decode(payload)
    except UNREADABLE:
        return _read_loosely(payload)
    return Batch(batch.ts, batch.events)


def _read_loosely(payload: bytes) -> Batch | None:
    try:
        loose = _LOOSE.decode(payload)
    except UNREADABLE:
        return None
    events: list[Event] = []
    for raw in loose.events:
        try:
            events.append(_EVENT.decode(raw))
        except UNREADABLE:
            continue
    return Batch(loose.ts, events, len(loose.events) - len(events))
