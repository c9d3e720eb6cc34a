"""Which pods a ModelDeployment makes on this machine, and how each is started. The cluster runs what is planned here.

The manifests are those of the builders that Kubernetes gets its own from; counts come from the roles' minimum replicas
unless the user says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from paceline.api import labels, wire
from paceline.api.v1alpha1 import ModelDeployment, from_manifest
from paceline.api.v1alpha1.scaling import RoleChangePolicy, ScalingMode
from paceline.errors import ConfigError, ConfigurationImpossible
from paceline.local.kubelet import Launch
from paceline.local.pods import LOOPBACK, Context, PodIdentity, engine_program, router_program
from paceline.local.ports import PortAllocator, require_free
from paceline.local.tenants import check_keys, one_router
from paceline.policy.resources import (
    EngineChildren,
    HardwarePool,
    RouterChildren,
    children,
    engine_profile,
    noted_profile,
)
from paceline.policy.scaling.profiles import known_profiles, profile_of

ROUTER_START_SECONDS: Final = 60.0
FALLBACK_PROFILE: Final = "qwen3-32b-h200-tp2"
EMULATOR_TOKENS: Final = "bytes"
"""The router's name for the tokenizer of emulated engines."""
"""Engine model of emulated engines on hardware of which nothing is known."""

Backend = Literal["emulator", "vllm"]
_PORT_NAMES: Final = wire.EnginePorts.__struct_fields__


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How the pods are run here."""

    backend: Backend = "emulator"
    speed: float = 1.0
    """How many times faster than the hardware they stand for emulated engines are. Real engines have 1."""
    profile: str | None = None
    """Engine model of all emulated engines; None takes that of each pool's hardware."""
    port: int = 8000
    """Of the endpoint; 0 takes any that is free."""
    counts: Mapping[wire.Role, int] = field(default_factory=dict)
    """Engines by role; a role that is missing has its minimum."""
    tenant_keys: Path | None = None
    """Folder with a file of API keys for each tenant."""


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod to run."""

    name: str
    launch: Callable[[], Launch]
    """Makes the program of the next life, on fresh ports."""
    start_deadline_seconds: float
    pool: str = ""
    runs: str = ""
    """What the engine is, in words: vLLM, or which hardware it stands for."""
    fixed_role: wire.Role | None = None
    """None where roles change, and for the router."""
    revision: str = ""
    profile: str | None = None
    """Engine model that an emulated engine runs by; None for a real one."""
    ranks: int = 1
    """Data-parallel ranks that publish cache events of their own."""


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """All pods of a ModelDeployment."""

    engines: tuple[PodPlan, ...]
    router: PodPlan
    endpoint_port: int
    wanted: Mapping[str, Mapping[wire.Role, int]]
    """Engines by pool and role."""
    fleet_path: Path
    notes: tuple[str, ...]
    """What the user should know about how the hardware is emulated."""
    namespace: str = "default"
    deployment: str = ""
    """Name of the ModelDeployment."""
    more: Callable[[str, int], PodPlan] | None = None
    """Makes another engine of a pool, by its number; None where there can be none but ``engines``."""
    drain_seconds: float = 300.0
    """How long an engine that goes may take to finish what it has."""
    drain_first: bool = False
    """Whether engines finish what they have before they change their role."""

    @property
    def prefill_profile(self) -> str | None:
        """Engine model of the engines that compute prompts; None when they are real."""
        pools = {name for name, counts in self.wanted.items() if not counts.keys() <= {wire.Role.DECODE}}
        return next((pod.profile for pod in self.engines if pod.pool in pools), None)

    @property
    def title(self) -> str:
        """The engines in one phrase."""
        wanted: Counter[wire.Role] = Counter()
        for counts in self.wanted.values():
            wanted.update(counts)
        roles = " + ".join(f"{count} {role}" for role, count in wanted.items())
        kinds = ", ".join(sorted({pod.runs for pod in self.engines}))
        return f"{roles} engines ({kinds})"


def with_model_path(md: ModelDeployment, folder: Path) -> ModelDeployment:
    """The same resource with its weights in a folder of this machine. Raises ConfigError unless the folder exists."""
    if not folder.is_dir():
        raise ConfigError(f"--model-path: {folder} is not a folder.")
    manifest = md.model_dump(mode="json", by_alias=True, exclude_none=True)
    manifest["spec"]["model"]["source"] = {"type": "Local", "local": {"path": str(folder.resolve())}}
    return from_manifest(manifest, f"{md.metadata.name} with --model-path")


def with_scaling(md: ModelDeployment, mode: ScalingMode) -> ModelDeployment:
    """The same resource with another scaling mode."""
    scaling = md.spec.scaling.model_copy(update={"mode": mode})
    return md.model_copy(update={"spec": md.spec.model_copy(update={"scaling": scaling})})


def make_plan(
    md: ModelDeployment,
    options: ClusterOptions,
    *,
    ports: PortAllocator,
    fleet_path: Path,
    environment: Mapping[str, str],
) -> LocalPlan:
    """Plan all pods.

    Raises LocalRuntimeError when the endpoint's port is in use, ConfigError for counts or profiles that can't be, and
    ConfigurationImpossible for engines that one machine can't hold.
    """
    check_keys(md, options.tenant_keys)
    made = children(one_router(md))
    context = Context(
        config_maps={m["metadata"]["name"]: m["data"] for m in made.manifests() if m["kind"] == "ConfigMap"},
        environment=environment,
        needs_secrets=options.backend == "vllm",
    )
    wanted = _wanted([child.pool for child in made.engines], options.counts)
    pools = {child.pool.name: (child, _backend(md, child.pool, options)) for child in made.engines}

    def more(pool: str, number: int) -> PodPlan:
        child, backend = pools[pool]
        return _engine(child, number, md, context, ports, backend)

    engines = [more(pool, number) for pool, counts in wanted.items() for number in range(sum(counts.values()))]
    if options.port:
        require_free(LOOPBACK, options.port, "--port")
    endpoint = options.port or ports.take()
    return LocalPlan(
        engines=tuple(engines),
        router=_router(made.router, md, context, ports, endpoint, fleet_path, options),
        endpoint_port=endpoint,
        wanted=wanted,
        fleet_path=fleet_path,
        notes=tuple(note for _, backend in pools.values() for note in backend.notes),
        namespace=md.metadata.namespace,
        deployment=md.metadata.name,
        more=more,
        drain_seconds=float(md.spec.engine.drain_seconds),
        drain_first=md.spec.scaling.role_change_policy is RoleChangePolicy.DRAIN_FIRST,
    )


def _wanted(pools: list[HardwarePool], counts: Mapping[wire.Role, int]) -> dict[str, dict[wire.Role, int]]:
    """Engines by pool and role. A role that may sleep at zero has one here: ``up`` is there to serve."""
    roles = {bound.role for pool in pools for bound in pool.bounds}
    for role in counts:
        if role not in roles:
            known = ", ".join(sorted(f"--{known}" for known in roles)) or "none"
            raise ConfigError(f"--{role}: this deployment has no {role} engines; its roles are set with {known}.")
    return {
        pool.name: {bound.role: counts.get(bound.role, max(1, bound.minimum)) for bound in pool.bounds}
        for pool in pools
    }


@dataclass(frozen=True, slots=True)
class _Backend:
    """What the engines of a pool run here."""

    environment: Mapping[str, str]
    title: str
    profile: str | None = None
    notes: tuple[str, ...] = ()


def _backend(md: ModelDeployment, pool: HardwarePool, options: ClusterOptions) -> _Backend:
    if options.backend == "vllm":
        if pool.nodes > 1:
            raise ConfigurationImpossible(f"spec.pools ({pool.name})", f"{pool.nodes} nodes for an engine", "one node")
        return _Backend({"PACELINE_ENGINE_BACKEND": "vllm"}, "vLLM on this machine")
    notes: tuple[str, ...] = ()
    profile = options.profile or noted_profile(md) or engine_profile(md, pool)
    if profile is None:
        profile = FALLBACK_PROFILE
        hardware = f"{pool.accelerators} {pool.accelerator.product or 'GPUs'}" if pool.accelerators else "CPUs"
        others = ", ".join(sorted(known_profiles().keys() - {profile}))
        notes = (
            f"No engine profile stands for {md.spec.model.name} on {hardware} (pool {pool.name}): its engines are "
            f"emulated as {profile}. Choose another with --profile: {others}.",
        )
    environment = {
        "PACELINE_ENGINE_BACKEND": "emulator",
        "PACELINE_EMULATOR_PROFILE": profile,
        "PACELINE_EMULATOR_SPEED": repr(options.speed),
    }
    return _Backend(environment, f"emulated {profile_of(profile, 'engine profile').name}", profile, notes)


def _engine(
    child: EngineChildren,
    number: int,
    md: ModelDeployment,
    context: Context,
    ports: PortAllocator,
    backend: _Backend,
) -> PodPlan:
    template, pool = child.pod_template, child.pool
    # One workload is all there is here: its hash would tell nobody anything.
    workload = child.workload["metadata"]["name"].removesuffix(f"-{child.template_hash}")
    identity = PodIdentity(f"{workload}-{number}", md.metadata.namespace)
    # Each data-parallel rank has sockets of its own, on consecutive ports.
    ranks = pool.parallelism.data

    def launch() -> Launch:
        taken = {name: ports.take(ranks) for name in _PORT_NAMES}

        def release() -> None:
            for first in taken.values():
                ports.release(first, ranks)

        own = wire.EnginePorts(**taken)
        return Launch(engine_program(template, identity, context, own, backend.environment), own, release)

    return PodPlan(
        name=identity.name,
        launch=launch,
        start_deadline_seconds=float(md.spec.engine.start_deadline_seconds),
        pool=pool.name,
        runs=backend.title,
        fixed_role=pool.fixed_role,
        revision=template["metadata"]["labels"].get(labels.REVISION, ""),
        profile=backend.profile,
        ranks=ranks if backend.profile is None else 1,
    )


def _router(
    child: RouterChildren,
    md: ModelDeployment,
    context: Context,
    ports: PortAllocator,
    endpoint: int,
    fleet_path: Path,
    options: ClusterOptions,
) -> PodPlan:
    identity = PodIdentity(f"{child.deployment['metadata']['name']}-0", md.metadata.namespace)

    def launch() -> Launch:
        admin = ports.take()
        program = router_program(
            child.pod_template,
            identity,
            context,
            port=endpoint,
            admin_port=admin,
            fleet_file=fleet_path,
            speed=options.speed,
            tokenizer=None if options.backend == "vllm" else EMULATOR_TOKENS,
            tenant_keys=options.tenant_keys,
        )
        return Launch(program, wire.EnginePorts(api=endpoint, admin=admin), lambda: ports.release(admin))

    # It is ready when an engine is, and real engines take their time.
    return PodPlan(identity.name, launch, ROUTER_START_SECONDS + md.spec.engine.start_deadline_seconds)
