"""The emulator's command line and environment from an engine's configuration. Called by ``__main__``; pure.

It takes vLLM's flags, so the two lists differ only in what an emulator has no use for: parallelism, adapters' weights,
memory shares.
"""

from __future__ import annotations

from typing import Final

from paceline.api import wire
from paceline_worker.engine.kv_connectors import kv_transfer_config
from paceline_worker.engine.launch import LaunchPlan
from paceline_worker.engine.settings import Settings
from paceline_worker.engine.vllm_args import kv_events_config, lora_modules, tls_args

EMULATOR: Final = ("-m", "paceline_worker.emulator")


def emulator_plan(settings: Settings, *, python: str) -> LaunchPlan:
    """How to start the emulator: one process, even for an engine that spans nodes."""
    config = settings.config
    argv = [python, *EMULATOR, "--host", settings.bind_host, "--port", str(config.ports.api)]
    argv += tls_args(config)
    argv += ["--model", config.model, "--served-model-name", *config.served_names]
    if config.lora_adapters:
        argv += ["--lora-modules", *lora_modules(config)]
    if config.max_model_len is not None:
        argv += ["--max-model-len", str(config.max_model_len)]
    if config.kv_cache.block_size is not None:
        argv += ["--block-size", str(config.kv_cache.block_size)]
    argv += ["--enable-prefix-caching"]
    if config.kv_events:
        # Like its API on its own address only: on one machine there are many emulators.
        argv += ["--kv-events-config", kv_events_config(config, settings.pod, host=settings.bind_host)]
    transfer = kv_transfer_config(config)
    if transfer is not None:
        argv += ["--kv-transfer-config", transfer]
    if settings.emulator_profile is not None:
        argv += ["--profile", settings.emulator_profile]
    argv += ["--speed", f"{settings.emulator_speed:g}", *config.extra_args]
    env = {}
    if config.connector is wire.ConnectorKind.NIXL:
        env["VLLM_NIXL_SIDE_CHANNEL_HOST"] = settings.pod.ip
        env["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(config.ports.kv_side_channel)
    return LaunchPlan(program="the emulator", argv=tuple(argv), env=env)
