"""Cache events as vLLM 0.32 publishes them: msgpack ``[timestamp, [event, ...], data_parallel_rank]``.

Events are maps tagged by ``type``. Fields that the router doesn't use are left out here, and unknown ones are ignored,
so that a newer engine's events still decode.
"""

from __future__ import annotations

from typing import Any

import msgspec

BlockHash = int | bytes
"""The engine's own name of a block: an integer of 64 bits, or the whole digest."""


class BlockStored(msgspec.Struct, tag=True, gc=False):
    """Full blocks can be reused from now on. With token ids they are described; without, only named."""

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    token_ids: list[int]
    block_size: int
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    """For each block: adapter, images, cache salt, embeddings."""
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    locality: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, gc=False):
    """Blocks are no longer in a medium."""

    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, gc=False):
    """The engine's cache is empty."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class EventBatch(msgspec.Struct, array_like=True, gc=False):
    """What one engine step changed."""

    ts: float
    """Seconds since the Unix epoch, on the engine's clock."""
    events: list[Event]
    data_parallel_rank: int | None = None
