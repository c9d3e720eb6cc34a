"""vLLM's command line and environment from an engine's configuration. Called by ``__main__``; pure.

Flags and variables are those of vLLM 0.32; ``tests/vllm/test_arguments.py`` holds every plan against its own parser.
"""

from __future__ import annotations

import json
import ssl
from pathlib import PurePosixPath
from typing import Final

from paceline.api import wire
from paceline_worker.engine.kv_connectors import kv_transfer_config, mooncake_config, shared_tier_env
from paceline_worker.engine.launch import LaunchPlan
from paceline_worker.engine.settings import NodeGroup, Pod, Settings

API_SERVER: Final = ("-m", "vllm.entrypoints.openai.api_server")
HEADLESS: Final = ("-m", "vllm.entrypoints.cli.main", "serve")
"""Only the command line's ``serve`` knows ``--headless``."""
CPU_KV_CACHE_GIB: Final = 4
"""KV cache of a CPU engine whose configuration names no host tier: vLLM's own choice is nearly all memory of the
machine.
"""
MAX_LORAS_PER_BATCH: Final = 8
"""Each adapter of a batch has its own slot in accelerator memory; more adapters than slots take turns."""


def vllm_plan(settings: Settings, *, python: str, run_directory: str) -> LaunchPlan:
    """How to start vLLM. ``run_directory`` is an absolute path for files that vLLM reads."""
    config, pod, group = settings.config, settings.pod, settings.group
    follows = not group.leads
    argv = [python, *(HEADLESS if follows else API_SERVER)]
    argv += [config.source.reference] if follows else ["--model", config.source.reference]
    argv += ["--headless"] if follows else _server_args(settings)
    argv += _model_args(config)
    argv += _parallel_args(config.parallelism, group)
    argv += _cache_args(config, pod)
    argv += config.extra_args
    return LaunchPlan(
        program="vLLM",
        argv=tuple(argv),
        env=_forced_env(config, pod, group),
        default_env=_default_env(config, run_directory),
        files=_files(config, run_directory),
        serves_api=group.leads,
    )


def kv_events_config(config: wire.EngineConfig, pod: Pod, *, host: str = "*") -> str:
    """JSON of ``--kv-events-config``. The publisher adds a data-parallel rank's number to both ports itself.

    vLLM only binds where the ``host`` is ``*``; to any other it connects.
    """
    return json.dumps(
        {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": f"tcp://{host}:{config.ports.kv_events}",
            "replay_endpoint": f"tcp://{host}:{config.ports.kv_replay}",
            "topic": f"kv@{pod.name}@{config.served_names[0]}",
        },
        separators=(",", ":"),
    )


def _server_args(settings: Settings) -> list[str]:
    args = ["--host", settings.bind_host, "--port", str(settings.config.ports.api)]
    # The worker and Prometheus ask every second or so; the log is for requests.
    return [*args, *tls_args(settings.config), "--disable-access-log-for-endpoints", "/health,/metrics"]


def tls_args(config: wire.EngineConfig) -> list[str]:
    """Flags of the API over HTTPS; vLLM reads renewed files itself."""
    if config.tls is None:
        return []
    folder = PurePosixPath(config.tls.folder)
    args = ["--ssl-certfile", str(folder / "tls.crt"), "--ssl-keyfile", str(folder / "tls.key"), "--enable-ssl-refresh"]
    if config.tls.client_certificates:
        args += ["--ssl-ca-certs", str(folder / "ca.crt"), "--ssl-cert-reqs", str(int(ssl.CERT_REQUIRED))]
    return args


def lora_modules(config: wire.EngineConfig) -> list[str]:
    """Values of ``--lora-modules``, in the JSON form: a name or path may hold an equals sign."""
    return [json.dumps({"name": adapter.name, "path": adapter.path}) for adapter in config.lora_adapters]


def _model_args(config: wire.EngineConfig) -> list[str]:
    args = ["--served-model-name", *config.served_names]
    if config.source.revision is not None:
        args += ["--revision", config.source.revision]
    if config.max_model_len is not None:
        args += ["--max-model-len", str(config.max_model_len)]
    if config.lora_adapters:
        args += ["--enable-lora", "--max-loras", str(min(len(config.lora_adapters), MAX_LORAS_PER_BATCH))]
        args += ["--lora-modules", *lora_modules(config)]
    # Requests carry a priority only where the router has a reason to reorder; equal priorities stay first come first
    # served.
    args += ["--scheduling-policy", "priority"]
    return args


def _parallel_args(parallelism: wire.Parallelism, group: NodeGroup) -> list[str]:
    args = []
    if parallelism.tensor > 1:
        args += ["--tensor-parallel-size", str(parallelism.tensor)]
    if parallelism.pipeline > 1:
        args += ["--pipeline-parallel-size", str(parallelism.pipeline)]
    if parallelism.data > 1:
        args += ["--data-parallel-size", str(parallelism.data)]
    if parallelism.expert:
        args += ["--enable-expert-parallel"]
    if group.size > 1:
        args += ["--distributed-executor-backend", "mp", "--nnodes", str(group.size)]
        args += ["--node-rank", str(group.index), "--master-addr", group.leader_address]
    return args


def _cache_args(config: wire.EngineConfig, pod: Pod) -> list[str]:
    cache = config.kv_cache
    args = ["--enable-prefix-caching"]
    if cache.block_size is not None:
        args += ["--block-size", str(cache.block_size)]
    if config.accelerators.count > 0:
        args += ["--gpu-memory-utilization", f"{cache.gpu_memory_percent / 100:.2f}"]
    if config.kv_events:
        args += ["--kv-events-config", kv_events_config(config, pod)]
    transfer = kv_transfer_config(config)
    if transfer is not None:
        args += ["--kv-transfer-config", transfer]
    return args


def _forced_env(config: wire.EngineConfig, pod: Pod, group: NodeGroup) -> dict[str, str]:
    env = {}
    if config.connector is wire.ConnectorKind.NIXL:
        # vLLM adds a data-parallel rank's number to the port itself.
        env["VLLM_NIXL_SIDE_CHANNEL_HOST"] = pod.ip
        env["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(config.ports.kv_side_channel)
    if group.size > 1:
        env["VLLM_HOST_IP"] = pod.ip
    return env


def _default_env(config: wire.EngineConfig, run_directory: str) -> dict[str, str]:
    # A cluster's engines don't report to anyone unless their owner asks for it.
    env = {"VLLM_NO_USAGE_STATS": "1"}
    if config.source.kind is wire.SourceKind.LOCAL:
        env["HF_HUB_OFFLINE"] = "1"
    if config.accelerators.count == 0:
        env["VLLM_CPU_KVCACHE_SPACE"] = str(config.kv_cache.host_gib or CPU_KV_CACHE_GIB)
        # Two engines on one machine would both pin their threads to its first cores.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        env["UCX_TLS"] = "tcp,shm,self"
    shared = config.kv_cache.shared
    if shared is not None:
        env |= shared_tier_env(shared)
        if shared.kind is wire.SharedTierKind.MOONCAKE:
            env["MOONCAKE_CONFIG_PATH"] = _mooncake_path(run_directory)
    return env


def _files(config: wire.EngineConfig, run_directory: str) -> dict[str, str]:
    shared = config.kv_cache.shared
    if shared is None or shared.kind is not wire.SharedTierKind.MOONCAKE:
        return {}
    return {_mooncake_path(run_directory): mooncake_config(shared, config.accelerators)}


def _mooncake_path(run_directory: str) -> str:
    return str(PurePosixPath(run_directory) / "mooncake.json")
