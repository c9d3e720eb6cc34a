"""Which accelerators this machine has, and whether an engine's configuration fits on them. Called by the worker before
it starts vLLM.

They are counted in a short-lived process of their own (``python -m paceline_worker.engine.accelerators``): asking torch
for names and memory opens a context on every accelerator, which would hold hundreds of megabytes of each for as long as
the asking process lives.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import msgspec

from paceline.api import wire
from paceline.errors import ConfigurationImpossible, EngineError

DETECTION_SECONDS: Final = 180
"""torch can take a minute to load from a cold image."""
WEIGHT_FILES: Final = ("*.safetensors", "*.bin", "*.gguf")
GIB: Final = 1 << 30


class Accelerator(msgspec.Struct, frozen=True):
    """One accelerator as torch sees it."""

    name: str
    memory_bytes: int


def count_with_torch() -> tuple[Accelerator, ...]:
    """Accelerators of this machine. Opens a context on each: call it in a process that ends soon."""
    import torch

    if not torch.accelerator.is_available() or torch.accelerator.current_accelerator() == torch.device("cpu"):
        return ()
    found = []
    for index in range(torch.accelerator.device_count()):
        properties = torch.get_device_module().get_device_properties(index)
        found.append(Accelerator(name=properties.name, memory_bytes=properties.total_memory))
    return tuple(found)


async def find_accelerators(python: str = sys.executable) -> tuple[Accelerator, ...]:
    """Accelerators of this machine. Raises EngineError where torch is missing or does not answer."""
    process = await asyncio.create_subprocess_exec(
        python,
        "-m",
        "paceline_worker.engine.accelerators",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DETECTION_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        raise EngineError(f"torch did not list the accelerators within {DETECTION_SECONDS} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no output"]
        raise EngineError(f"torch can't list the accelerators of this machine: {lines[-1]}")
    return msgspec.json.decode(output, type=tuple[Accelerator, ...])


def check_parallelism(config: wire.EngineConfig) -> None:
    """Refuse a parallelism that the configuration's own accelerators can't hold. Raises ConfigurationImpossible."""
    parallelism, count = config.parallelism, config.accelerators.count
    ranks = parallelism.tensor * parallelism.pipeline * parallelism.data
    formula = f"tensor {parallelism.tensor} x pipeline {parallelism.pipeline} x data {parallelism.data}"
    if ranks % parallelism.nodes:
        raise ConfigurationImpossible(
            "engine.parallelism", f"{ranks} ranks ({formula}) split evenly", f"its place in {parallelism.nodes} nodes"
        )
    local = ranks // parallelism.nodes
    if count and local > count:
        raise ConfigurationImpossible(
            "engine.parallelism", f"{local} accelerators in a pod ({formula})", f"accelerator.count {count}"
        )


def check_accelerators(config: wire.EngineConfig, found: tuple[Accelerator, ...]) -> None:
    """Refuse a machine with too few accelerators or too little memory. Raises ConfigurationImpossible."""
    need = config.accelerators.count
    if need > len(found):
        have = ", ".join(accelerator.name for accelerator in found)
        product = f" of {config.accelerators.product}" if config.accelerators.product else ""
        raise ConfigurationImpossible(
            "accelerator.count", f"{need}{product}", f"{len(found)} ({have})" if have else "none"
        )
    weights = weight_bytes(config.source)
    if not weights or not need:
        return
    # Data-parallel ranks hold the weights once each; experts are shared out among them.
    copies = 1 if config.parallelism.expert else config.parallelism.data
    share = config.kv_cache.gpu_memory_percent / 100
    memory = sum(accelerator.memory_bytes for accelerator in found[:need]) * config.parallelism.nodes
    if weights * copies > memory * share:
        raise ConfigurationImpossible(
            "model.source",
            f"{weights * copies / GIB:.1f} GiB for the weights alone",
            f"{memory * share / GIB:.1f} GiB (kvCache.gpuMemoryPercent {config.kv_cache.gpu_memory_percent})",
        )


def check_source(source: wire.ModelSource) -> None:
    """Refuse a model folder that is not there. Raises EngineError; a Hugging Face name is vLLM's to check."""
    if source.kind is not wire.SourceKind.LOCAL:
        return
    folder = Path(source.reference)
    if not folder.is_dir():
        raise EngineError(f"The model folder {folder} does not exist in this pod: check model.source and its volume.")
    if not (folder / "config.json").is_file() and not any(folder.glob("*.gguf")):
        raise EngineError(f"The model folder {folder} holds no config.json: it is not a checkpoint that vLLM can load.")


def weight_bytes(source: wire.ModelSource) -> int | None:
    """Size of the weights on disk in bytes; None where they are not on this machine yet."""
    folder = Path(source.reference)
    if source.kind is not wire.SourceKind.LOCAL or not folder.is_dir():
        return None
    for pattern in WEIGHT_FILES:
        files = list(folder.glob(pattern))
        if files:
            return sum(file.stat().st_size for file in files)
    return None


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(count_with_torch()))
