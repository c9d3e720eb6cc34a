"""Flags and environment of the router, read once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from paceline.api import wire
from paceline.errors import ConfigError
from paceline.policy.routing.fleet import EngineModel, NominalModel
from paceline.policy.routing.placement import Settings as PlacementSettings
from paceline.policy.routing.placement import default_local_prefill_tokens
from paceline.policy.scaling.profiles import get_profile

CONFIG_ENV: Final = "PACELINE_ROUTER_CONFIG"
PARENT_ENV: Final = "PACELINE_PARENT_FD"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a router process is told."""

    host: str
    port: int
    admin_port: int
    fleet_file: Path
    config: wire.RouterConfig
    parent_fd: int | None
    """Read end of a pipe whose other end the parent holds; its end means the parent is gone."""
    model: EngineModel
    placement: PlacementSettings


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from command line and environment. Raises ConfigError; argparse exits with 2 on unknown flags."""
    parser = argparse.ArgumentParser(prog="python -m paceline_worker.router", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="of the OpenAI-compatible API; 0: any free one")
    parser.add_argument("--admin-port", type=int, required=True, help="of health, metrics and fleet; 0: any free one")
    parser.add_argument("--fleet-file", type=Path, required=True, help="JSON of all engines, replaced atomically")
    flags = parser.parse_args(arguments)
    for name, value in (("--port", flags.port), ("--admin-port", flags.admin_port)):
        if not 0 <= value < 1 << 16:
            raise ConfigError(f"{name}: {value} is not a port; 0 to 65535 is allowed.")
    document = environment.get(CONFIG_ENV)
    if document is None:
        raise ConfigError(f"{CONFIG_ENV} is not set; it holds the router's configuration as JSON.")
    config = wire.decode(wire.RouterConfig, document, source=CONFIG_ENV)
    model = NominalModel() if config.engine_profile is None else get_profile(config.engine_profile)
    return Settings(
        host=flags.host,
        port=flags.port,
        admin_port=flags.admin_port,
        fleet_file=flags.fleet_file,
        config=config,
        parent_fd=_parent_fd(environment.get(PARENT_ENV)),
        model=model,
        placement=placement_settings(config, model),
    )


def placement_settings(config: wire.RouterConfig, model: EngineModel) -> PlacementSettings:
    """The part of a configuration that placement needs."""
    local = config.local_prefill_tokens
    return PlacementSettings(
        disaggregated=config.disaggregated,
        local_prefill_tokens=default_local_prefill_tokens(model) if local is None else local,
        max_running_per_engine=config.admission.max_running_per_engine,
    )


def from_process(arguments: Sequence[str]) -> Settings:
    """:func:`read` with this process's environment."""
    return read(arguments, os.environ)


def _parent_fd(value: str | None) -> int | None:
    if not value:
        return None
    if not value.isdecimal():
        raise ConfigError(f"{PARENT_ENV}: {value} is not a file descriptor; a number of 0 or more is allowed.")
    return int(value)
