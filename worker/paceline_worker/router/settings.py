"""Flags and environment of the router, read once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from paceline.api import wire
from paceline.errors import ConfigError
from paceline.policy.routing.cost import Settings as PlacementSettings
from paceline.policy.routing.crowding import Crowding, crowding
from paceline.policy.routing.fleet import EngineModel, FasterModel, NominalModel
from paceline.policy.routing.placement import default_local_prefill_tokens
from paceline.policy.scaling.profiles import profile_of
from paceline_worker.router.live.settings import LiveSettings, read_live_settings
from paceline_worker.router.pod_api import PodSelection
from paceline_worker.router.prefixes.knowledge import Settings as KnowledgeSettings
from paceline_worker.router.prefixes.knowledge import tier_weights
from paceline_worker.router.tracing.trace import read_tracing
from paceline_worker.router.watch import CHECK_TIMEOUT_SECONDS

CONFIG_ENV: Final = "PACELINE_ROUTER_CONFIG"
BATCH_TOKENS: Final = 8192
"""Of a prefill step: vLLM's default for ``--max-num-batched-tokens`` on large accelerators."""
AHEAD_BATCHES: Final = 0.25
"""How long before it is done with what it has a prefill engine gets the next prompt, in prefill steps. It must not
stand idle; but what it has is served in the order of arrival. A tenth of a second for a 32B model on H200.
"""
MAX_CHECK_SECONDS: Final = 300
PARENT_ENV: Final = "PACELINE_PARENT_FD"
SERVER_HOST_ENV: Final = "KUBERNETES_SERVICE_HOST"
SERVER_PORT_ENV: Final = "KUBERNETES_SERVICE_PORT"
ACCOUNT_FOLDER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's credentials."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a router process is told."""

    host: str
    port: int
    admin_port: int
    fleet_file: Path | None
    """File that describes the fleet; None when the pods do."""
    config: wire.RouterConfig
    parent_fd: int | None
    """Read end of a pipe whose other end the parent holds; its end means the parent is gone."""
    model: EngineModel
    placement: PlacementSettings
    pods: PodSelection | None = None
    """The engines' pods, where no file describes them."""
    live: LiveSettings | None = None
    """The live page; None where it is off."""
    tracing: bool = False
    tenant_keys: Path | None = None
    """Folder with a file of API keys for each tenant; None where there are no tenants."""
    check_seconds: float = CHECK_TIMEOUT_SECONDS
    """How long an engine may take to answer a check."""


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from command line and environment. Raises ConfigError; argparse exits with 2 on unknown flags."""
    parser = argparse.ArgumentParser(prog="python -m paceline_worker.router", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="of the OpenAI-compatible API; 0: any free one")
    parser.add_argument("--admin-port", type=int, required=True, help="of health, metrics and fleet; 0: any free one")
    parser.add_argument("--fleet-source", choices=("file", "kubernetes"), default="file", help="who knows the engines")
    parser.add_argument("--fleet-file", type=Path, help="source file: JSON of all engines, replaced atomically")
    parser.add_argument("--fleet-selector", help="source kubernetes: label selector of the engines' pods")
    parser.add_argument(
        "--service-account-dir",
        type=Path,
        default=ACCOUNT_FOLDER,
        help="source kubernetes: has token, ca.crt",
    )
    parser.add_argument("--tenant-keys", type=Path, help="folder with a file of API keys, one a line, for each tenant")
    parser.add_argument(
        "--check-seconds",
        type=float,
        default=CHECK_TIMEOUT_SECONDS,
        help="how long an engine may take to answer /health; longer for engines that share a few CPU cores",
    )
    flags = parser.parse_args(arguments)
    if not 0 < flags.check_seconds <= MAX_CHECK_SECONDS:
        raise ConfigError(
            f"--check-seconds: {flags.check_seconds:g} is not allowed; above 0 and at most {MAX_CHECK_SECONDS} is."
        )
    for name, value in (("--port", flags.port), ("--admin-port", flags.admin_port)):
        if not 0 <= value < 1 << 16:
            raise ConfigError(f"{name}: {value} is not a port; 0 to 65535 is allowed.")
    document = environment.get(CONFIG_ENV)
    if document is None:
        raise ConfigError(f"{CONFIG_ENV} is not set; it holds the router's configuration as JSON.")
    config = wire.decode(wire.RouterConfig, document, source=CONFIG_ENV)
    model: EngineModel = (
        NominalModel()
        if config.engine_profile is None
        else profile_of(config.engine_profile, f"{CONFIG_ENV}.engineProfile")
    )
    if config.engine_speed != 1.0:
        model = FasterModel(model, config.engine_speed)
    return Settings(
        host=flags.host,
        port=flags.port,
        admin_port=flags.admin_port,
        fleet_file=_required(flags.fleet_file, "--fleet-file", "file") if flags.fleet_source == "file" else None,
        pods=_pods(flags, config, environment) if flags.fleet_source == "kubernetes" else None,
        config=config,
        parent_fd=_parent_fd(environment.get(PARENT_ENV)),
        model=model,
        placement=placement_settings(config, model),
        live=read_live_settings(environment),
        tracing=read_tracing(environment),
        tenant_keys=_tenant_keys(flags.tenant_keys, config),
        check_seconds=flags.check_seconds,
    )


def placement_settings(config: wire.RouterConfig, model: EngineModel) -> PlacementSettings:
    """The part of a configuration that placement needs."""
    local, split = config.local_prefill_tokens, config.cold_warm_split
    return PlacementSettings(
        disaggregated=config.disaggregated,
        local_prefill_tokens=default_local_prefill_tokens(model) if local is None else local,
        max_running_per_engine=config.admission.max_running_per_engine,
        prefill_ahead_seconds=AHEAD_BATCHES * model.prefill_seconds(BATCH_TOKENS),
        crowding=_crowding(config, model),
        load_weight=config.placement.load_percent / 100,
        cache_weight=config.placement.cache_percent / 100,
        cold_tokens=split.cold_tokens if split.mode is wire.SplitMode.FIXED else None,
        split_seconds=config.objective.ttft_milliseconds / 1000,
    )


def _crowding(config: wire.RouterConfig, model: EngineModel) -> Crowding | None:
    """How many streams a decode engine may have by its steps; None: by their number alone.

    A model without a capacity stands in where nothing is known of the hardware: nobody waits for what it says. In order
    of arrival who is late is not put behind, so that waiting would make the others late, too.
    """
    holds = config.admission.hold_for_itl and config.queue.order is wire.QueueOrder.DEADLINE
    if not (config.disaggregated and holds and model.kv_capacity_tokens):
        return None
    return crowding(model, config.objective.itl_milliseconds / 1000)


def knowledge_settings(config: wire.RouterConfig, model: EngineModel) -> KnowledgeSettings:
    """The part of a configuration that the knowledge of caches needs."""
    weights = config.placement
    return KnowledgeSettings(
        model=config.served_names[0],
        block_size=config.block_size,
        max_entries=config.index_entries,
        capacity_tokens=model.kv_capacity_tokens,
        tier_weights=tier_weights(
            host=weights.host_hit_percent / 100,
            disk=weights.disk_hit_percent / 100,
            shared=weights.shared_hit_percent / 100,
        ),
        sent_seconds=float(config.sessions.ttl_seconds),
    )


def from_process(arguments: Sequence[str]) -> Settings:
    """:func:`read` with this process's environment."""
    return read(arguments, os.environ)


def _pods(flags: argparse.Namespace, config: wire.RouterConfig, environment: Mapping[str, str]) -> PodSelection:
    host, port = environment.get(SERVER_HOST_ENV), environment.get(SERVER_PORT_ENV, "443")
    if not host:
        raise ConfigError(f"--fleet-source kubernetes: {SERVER_HOST_ENV} is not set; every pod of a cluster has it.")
    return PodSelection(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=config.namespace,
        selector=_required(flags.fleet_selector, "--fleet-selector", "kubernetes"),
        account_folder=flags.service_account_dir,
    )


def _tenant_keys(folder: Path | None, config: wire.RouterConfig) -> Path | None:
    if config.tenancy is not None and folder is None:
        raise ConfigError("--tenant-keys: missing; the configuration has tenants, and their keys must be somewhere.")
    return folder


def _required(value: T | None, flag: str, source: str) -> T:
    if not value:
        raise ConfigError(f"{flag}: missing; --fleet-source {source} needs it.")
    return value


def _parent_fd(value: str | None) -> int | None:
    if not value:
        return None
    if not value.isdecimal():
        raise ConfigError(f"{PARENT_ENV}: {value} is not a file descriptor; a number of 0 or more is allowed.")
    return int(value)
