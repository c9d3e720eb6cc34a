"""What an engine worker is told by its environment, read once and passed on. Called by ``__main__``.

A pod and a local process get the same variables; the module's constants are their names. Whatever is wrong ends in a
:class:`~paceline.errors.ConfigError` that names the variable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from paceline.api import wire
from paceline.errors import ConfigError

CONFIG: Final = "PACELINE_ENGINE_CONFIG"
POD_NAME: Final = "POD_NAME"
POD_NAMESPACE: Final = "POD_NAMESPACE"
POD_IP: Final = "POD_IP"
BIND_HOST: Final = "PACELINE_BIND_HOST"
BACKEND: Final = "PACELINE_ENGINE_BACKEND"
EMULATOR_PROFILE: Final = "PACELINE_EMULATOR_PROFILE"
EMULATOR_SPEED: Final = "PACELINE_EMULATOR_SPEED"
PARENT_FD: Final = "PACELINE_PARENT_FD"
WORKER_INDEX: Final = "LWS_WORKER_INDEX"
LEADER_ADDRESS: Final = "LWS_LEADER_ADDRESS"
GROUP_SIZE: Final = "LWS_GROUP_SIZE"

ANY_HOST: Final = "0.0.0.0"  # noqa: S104  # a pod's ports are reached at the pod's address; NetworkPolicy guards them


class Backend(StrEnum):
    """What computes: vLLM, or its look-alike for machines without accelerators."""

    VLLM = "vllm"
    EMULATOR = "emulator"


@dataclass(frozen=True, slots=True)
class Pod:
    """Who this engine is. ``ip`` is the address at which others reach it."""

    name: str
    namespace: str
    ip: str


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Place of this pod among the pods that one engine spans; index 0 leads and serves the API."""

    index: int = 0
    size: int = 1
    leader_address: str = ""

    @property
    def leads(self) -> bool:
        """Whether this pod serves the engine's API."""
        return self.index == 0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the environment says."""

    config: wire.EngineConfig
    pod: Pod
    group: NodeGroup
    bind_host: str = ANY_HOST
    backend: Backend = Backend.VLLM
    emulator_profile: str | None = None
    emulator_speed: float = 1.0
    parent_fd: int | None = None


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings. Raises ConfigError for a variable that is missing or not valid."""
    config = wire.decode(wire.EngineConfig, _required(environment, CONFIG), source=CONFIG)
    backend = _backend(environment)
    return Settings(
        config=config,
        pod=Pod(
            name=_required(environment, POD_NAME),
            namespace=_required(environment, POD_NAMESPACE),
            ip=_required(environment, POD_IP),
        ),
        # An emulated engine is one process, however many nodes the real one spans.
        group=NodeGroup() if backend is Backend.EMULATOR else _node_group(environment, config),
        bind_host=environment.get(BIND_HOST) or ANY_HOST,
        backend=backend,
        emulator_profile=environment.get(EMULATOR_PROFILE) or None,
        emulator_speed=_speed(environment),
        parent_fd=_integer(environment, PARENT_FD, minimum=0) if environment.get(PARENT_FD) else None,
    )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise ConfigError(f"The environment variable {name} is not set; an engine worker needs it.")
    return value


def _integer(environment: Mapping[str, str], name: str, *, minimum: int) -> int:
    text = _required(environment, name)
    try:
        value = int(text)
    except ValueError:
        value = minimum - 1
    if value < minimum:
        raise ConfigError(f"{name} is {text!r}; allowed is an integer of at least {minimum}.")
    return value


def _backend(environment: Mapping[str, str]) -> Backend:
    text = environment.get(BACKEND) or Backend.VLLM.value
    try:
        return Backend(text)
    except ValueError:
        allowed = " or ".join(backend.value for backend in Backend)
        raise ConfigError(f"{BACKEND} is {text!r}; allowed is {allowed}.") from None


def _speed(environment: Mapping[str, str]) -> float:
    text = environment.get(EMULATOR_SPEED) or "1"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{EMULATOR_SPEED} is {text!r}; allowed is a number above 0.")
    return value


def _node_group(environment: Mapping[str, str], config: wire.EngineConfig) -> NodeGroup:
    nodes = config.parallelism.nodes
    if nodes == 1:
        return NodeGroup()
    group = NodeGroup(
        index=_integer(environment, WORKER_INDEX, minimum=0),
        size=_integer(environment, GROUP_SIZE, minimum=1),
        leader_address=_required(environment, LEADER_ADDRESS),
    )
    if group.size != nodes:
        raise ConfigError(
            f"{GROUP_SIZE} is {group.size}, but parallelism.nodes in {CONFIG} is {nodes}; they must be equal."
        )
    if group.index >= group.size:
        raise ConfigError(f"{WORKER_INDEX} is {group.index}; allowed is 0 to {group.size - 1} in a group of {nodes}.")
    return group
