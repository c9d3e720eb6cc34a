"""``--kv-transfer-config``: where an engine's KV blocks go beside its own accelerator. Called by ``vllm_args`` and
``emulator_args``; pure.

vLLM takes one connector, or several under ``MultiConnector``, which loads from the first that has the blocks and saves
to all. The order here is therefore: blocks that a prefill engine holds for this very request, then tiers from near to
far.
"""

from __future__ import annotations

import json
from typing import Any, Final

from paceline.api import wire

GIB: Final = 1 << 30
BOTH_ROLES: Final = "kv_both"
"""Every engine may send and receive: its role is a label that the router reads, not a start-up flag."""

Connector = dict[str, Any]


def kv_transfer_config(config: wire.EngineConfig) -> str | None:
    """The flag's JSON; None where the engine has no connector."""
    connectors = _connectors(config)
    if not connectors:
        return None
    if len(connectors) == 1:
        document = dict(connectors[0])
    else:
        document = {
            "kv_connector": "MultiConnector",
            "kv_role": BOTH_ROLES,
            "kv_connector_extra_config": {"connectors": connectors},
        }
    # A prompt whose blocks can't be fetched is computed again: slower, but the client gets its answer.
    document["kv_load_failure_policy"] = "recompute"
    return json.dumps(document, separators=(",", ":"))


def _connectors(config: wire.EngineConfig) -> list[Connector]:
    cache = config.kv_cache
    found = []
    if config.connector is wire.ConnectorKind.NIXL:
        found.append(_connector("NixlConnector"))
    if config.accelerators.count > 0:
        # On a CPU the main cache is host memory already.
        if cache.host_gib:
            found.append(_connector("OffloadingConnector", cpu_bytes_to_use=cache.host_gib * GIB))
        if cache.disk_gib:
            # The other way to a disk, a file-system tier below OffloadingConnector, has no bound on its size.
            found.append(
                _connector(
                    "SimpleCPUOffloadConnector",
                    kv_offload_backend="disk",
                    disk_path=cache.disk_path,
                    disk_capacity_bytes=cache.disk_gib * GIB,
                )
            )
    if cache.shared is not None:
        match cache.shared.kind:
            case wire.SharedTierKind.LMCACHE:
                found.append(_connector("LMCacheConnectorV1"))
            case wire.SharedTierKind.MOONCAKE:
                found.append(_connector("MooncakeStoreConnector", load_async=True))
    return found


def _connector(name: str, **extra: Any) -> Connector:
    document: Connector = {"kv_connector": name, "kv_role": BOTH_ROLES}
    if extra:
        document["kv_connector_extra_config"] = extra
    return document


def shared_tier_env(shared: wire.SharedTier) -> dict[str, str]:
    """Environment through which a shared tier's client finds its server; Mooncake reads a file instead."""
    if shared.kind is not wire.SharedTierKind.LMCACHE:
        return {}
    url = shared.endpoint if "://" in shared.endpoint else f"lm://{shared.endpoint}"
    # Keys are hashes of tokens: without a common seed two engines never find each other's blocks.
    return {"LMCACHE_REMOTE_URL": url, "LMCACHE_REMOTE_SERDE": "naive", "PYTHONHASHSEED": "0"}


def mooncake_config(shared: wire.SharedTier, accelerators: wire.Accelerators) -> str:
    """Content of the file that ``MOONCAKE_CONFIG_PATH`` names."""
    return json.dumps(
        {
            "master_server_address": shared.endpoint,
            "metadata_server": "P2PHANDSHAKE",
            "protocol": "rdma" if accelerators.count else "tcp",
            "device_name": "",
        },
        indent=2,
    )
