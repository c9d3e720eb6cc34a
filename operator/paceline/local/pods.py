"""From a pod template to a program that runs on this machine. Pure but for what is passed in; called by the cluster.

The template is the one that Kubernetes would get. What a container runtime would do to it is done here: environment
variables are resolved, ``python`` becomes this interpreter, and every port becomes one that is free. What has no
meaning without a container (images, volumes, probes, resources, security contexts) is passed over.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from paceline.api import wire
from paceline.errors import LocalRuntimeError
from paceline.local.process import Program
from paceline.policy.resources import Manifest
from paceline.policy.resources.tenants import KEYS_FLAG

LOOPBACK: Final = "127.0.0.1"
ENGINE_CONFIG_ENV: Final = "PACELINE_ENGINE_CONFIG"
ROUTER_CONFIG_ENV: Final = "PACELINE_ROUTER_CONFIG"
BIND_HOST_ENV: Final = "PACELINE_BIND_HOST"
LIVE_PAGE_ENV: Final = "PACELINE_LIVE_PAGE"
LIVE_DECISIONS_ENV: Final = "PACELINE_LIVE_DECISIONS"
DECISIONS: Final = "planner.json"
"""In the run directory, where the local planner says what it decides."""
_OWN_PREFIX: Final = "PACELINE_"


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """What the downward API would tell a container about its pod."""

    name: str
    namespace: str
    ip: str = LOOPBACK
    node: str = "localhost"


@dataclass(frozen=True, slots=True)
class Context:
    """What templates refer to, besides the pod itself."""

    config_maps: Mapping[str, Mapping[str, str]]
    """Data by name."""
    environment: Mapping[str, str]
    """Of this process: pods inherit it, and Secrets are looked up in it."""
    needs_secrets: bool = True
    """Whether a Secret that the environment lacks is an error. Emulated engines can do without."""


def engine_program(
    template: Manifest, identity: PodIdentity, context: Context, ports: wire.EnginePorts, extra: Mapping[str, str]
) -> Program:
    """An engine worker on ``ports``. ``extra`` holds variables that say how engines are run here.

    Raises LocalRuntimeError for a variable that can't be resolved on this machine.
    """
    variables = _variables(template, identity, context)
    config = wire.decode(wire.EngineConfig, variables[ENGINE_CONFIG_ENV], source=ENGINE_CONFIG_ENV)
    variables[ENGINE_CONFIG_ENV] = wire.encode(msgspec.structs.replace(config, ports=ports)).decode()
    return Program(_argv(template), _environment(context, variables, extra))


def router_program(
    template: Manifest,
    identity: PodIdentity,
    context: Context,
    *,
    port: int,
    admin_port: int,
    fleet_file: Path,
    speed: float = 1.0,
    tokenizer: str | None = None,
    tenant_keys: Path | None = None,
) -> Program:
    """The router on ``port`` of loopback. Its objective is in the engines' time, so it shrinks with their ``speed``.

    ``tokenizer``: see :class:`paceline.api.wire.RouterConfig`; None leaves it as it is. ``tenant_keys``: folder of the
    tenants' keys.
    """
    variables = _variables(template, identity, context)
    config = wire.decode(wire.RouterConfig, variables[ROUTER_CONFIG_ENV], source=ROUTER_CONFIG_ENV)
    config = _at_speed(config, speed)
    if tokenizer is not None:
        config = msgspec.structs.replace(config, tokenizer=tokenizer)
    variables[ROUTER_CONFIG_ENV] = wire.encode(config).decode()
    flags = {
        "--host": LOOPBACK,
        "--port": str(port),
        "--admin-port": str(admin_port),
        "--fleet-source": "file",
        "--fleet-file": str(fleet_file),
    }
    if tenant_keys is not None:
        flags[KEYS_FLAG] = str(tenant_keys.resolve())
    live = {LIVE_PAGE_ENV: "on", LIVE_DECISIONS_ENV: str(fleet_file.with_name(DECISIONS))}
    return Program(_with_flags(_argv(template), flags), _environment(context, variables, live))


def _variables(template: Manifest, identity: PodIdentity, context: Context) -> dict[str, str]:
    fields = {
        "metadata.name": identity.name,
        "metadata.namespace": identity.namespace,
        "metadata.uid": identity.name,
        "spec.nodeName": identity.node,
        "status.podIP": identity.ip,
        "status.hostIP": identity.ip,
        **{f"metadata.labels['{key}']": value for key, value in template["metadata"].get("labels", {}).items()},
    }
    resolved: dict[str, str] = {}
    for entry in _container(template).get("env", ()):
        value = _value(entry, fields, context)
        if value is not None:
            resolved[entry["name"]] = value
    return resolved


def _value(entry: Manifest, fields: Mapping[str, str], context: Context) -> str | None:
    """Value of one variable; None leaves it unset, as Kubernetes does with optional references."""
    name, source = entry["name"], entry.get("valueFrom")
    if source is None:
        return str(entry.get("value", ""))
    if "fieldRef" in source:
        path = source["fieldRef"]["fieldPath"]
        if path in fields:
            return fields[path]
        raise LocalRuntimeError(f"Variable {name} asks for {path}, which a local pod does not have.")
    if "configMapKeyRef" in source:
        return _config_value(name, source["configMapKeyRef"], context)
    if "secretKeyRef" in source:
        reference = source["secretKeyRef"]
        if name in context.environment:
            return context.environment[name]
        if reference.get("optional") or not context.needs_secrets:
            return None
        raise LocalRuntimeError(
            f"Variable {name} comes from the Secret {reference['name']}, and there are no Secrets on this machine. "
            f"Set {name} in the environment instead."
        )
    raise LocalRuntimeError(f"Variable {name} comes from {', '.join(source)}, which a local pod can't resolve.")


def _config_value(name: str, reference: Manifest, context: Context) -> str | None:
    data = context.config_maps.get(reference["name"], {})
    if reference["key"] in data:
        return data[reference["key"]]
    if reference.get("optional"):
        return None
    raise LocalRuntimeError(
        f"Variable {name} asks for key {reference['key']} of ConfigMap {reference['name']}, which is not there."
    )


def _container(template: Manifest) -> Manifest:
    container: Manifest = template["spec"]["containers"][0]
    return container


def _argv(template: Manifest) -> tuple[str, ...]:
    container = _container(template)
    command = [*container.get("command", ()), *container.get("args", ())]
    if not command:
        raise LocalRuntimeError(
            f"Container {container['name']} has no command, and there is no image to take one from."
        )
    program = sys.executable if command[0] in {"python", "python3"} else str(command[0])
    return (program, *(str(argument) for argument in command[1:]))


def _with_flags(argv: Sequence[str], flags: Mapping[str, str]) -> tuple[str, ...]:
    """``argv`` with the values of ``flags`` in place of its own; those that it lacks are appended."""
    result: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument in flags:
            next(arguments, None)
        else:
            result.append(argument)
    return (*result, *(part for flag in flags.items() for part in flag))


def _environment(context: Context, variables: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    inherited = {key: value for key, value in context.environment.items() if not key.startswith(_OWN_PREFIX)}
    return {**inherited, **variables, **extra, BIND_HOST_ENV: LOOPBACK, "PYTHONUNBUFFERED": "1"}


def _at_speed(config: wire.RouterConfig, speed: float) -> wire.RouterConfig:
    if speed == 1:
        return config
    return msgspec.structs.replace(
        config,
        engine_speed=speed,
        objective=_faster(config.objective, speed),
        classes=tuple(
            msgspec.structs.replace(entry, objective=_faster(entry.objective, speed)) for entry in config.classes
        ),
    )


def _faster(objective: wire.Objective, speed: float) -> wire.Objective:
    return msgspec.structs.replace(
        objective,
        ttft_milliseconds=max(1, round(objective.ttft_milliseconds / speed)),
        itl_milliseconds=max(1, round(objective.itl_milliseconds / speed)),
    )
