"""vLLM's arguments that Paceline sets itself, so that ``engine.extraArgs`` can't. The rules read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MANAGED_ARGUMENTS: Final = {
    "host": "",
    "port": "",
    "model": "model.name",
    "revision": "model.source.huggingFace.revision",
    "served-model-name": "model.servedName",
    "max-model-len": "model.maxModelLen",
    "lora-modules": "model.loraAdapters",
    "tensor-parallel-size": "engine.parallelism.tensor",
    "pipeline-parallel-size": "engine.parallelism.pipeline",
    "data-parallel-size": "engine.parallelism.data",
    "enable-expert-parallel": "engine.parallelism.expert",
    "gpu-memory-utilization": "engine.kvCache.gpuMemoryPercent",
    "block-size": "engine.kvCache.blockSize",
    "kv-transfer-config": "engine.connector",
    "kv-events-config": "",
    "nnodes": "",
    "node-rank": "",
    "master-addr": "",
    "headless": "",
    "ssl-certfile": "engine.tls",
    "ssl-keyfile": "engine.tls",
    "ssl-ca-certs": "engine.tls",
    "ssl-cert-reqs": "engine.tls",
}
"""Arguments of vLLM, without dashes, that Paceline sets, and the field below spec that they follow from; none where it
is the pod's place in its group.
"""

MANAGED_SHORT_ARGUMENTS: Final = {
    "tp": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "dp": "data-parallel-size",
}
"""The short forms that vLLM has for some of them."""


def managed(argument: str) -> str | None:
    """The name in MANAGED_ARGUMENTS that ``argument`` gives a value to."""
    # vLLM takes underscores for dashes.
    name = argument.partition("=")[0].replace("_", "-")
    if name.startswith("--"):
        return name[2:] if name[2:] in MANAGED_ARGUMENTS else None
    return MANAGED_SHORT_ARGUMENTS.get(name[1:]) if name.startswith("-") else None


def who_sets(arguments: Iterable[str]) -> str:
    """Those of ``arguments`` that are managed, with the fields to use instead."""
    found = []
    for argument in arguments:
        name = managed(argument)
        if name is not None:
            field = MANAGED_ARGUMENTS[name]
            found.append(f"{argument}, which spec.{field} sets" if field else argument)
    return "; ".join(found)
