"""The resource as a whole: metadata, spec and status of a ModelDeployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from paceline.api.v1alpha1.base import DnsLabel, DnsSubdomain, Model, Toggle
from paceline.api.v1alpha1.engine import EngineSpec, Parallelism
from paceline.api.v1alpha1.model import ModelSpec
from paceline.api.v1alpha1.pools import Pool, PoolMode, Pools
from paceline.api.v1alpha1.routing import QueueOrder, Routing
from paceline.api.v1alpha1.scaling import Scaling
from paceline.api.v1alpha1.slo import Slo
from paceline.api.v1alpha1.status import ModelDeploymentStatus
from paceline.api.v1alpha1.tenancy import Tenancy


class ObjectMeta(Model):
    """What Paceline reads of the Kubernetes metadata; the rest is left alone."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel)

    name: DnsSubdomain
    """Name, unique within the namespace."""
    namespace: DnsLabel = "default"
    """Namespace."""
    uid: Annotated[str, Field(max_length=128)] | None = None
    """Identity that the API server gave; None for a manifest that was read from a file."""
    generation: Annotated[int, Field(ge=0)] | None = None
    """Counts the changes of the spec."""
    labels: Mapping[str, str] = Field(default_factory=dict)
    """Labels."""
    annotations: Mapping[str, str] = Field(default_factory=dict)
    """Annotations."""


class ModelDeploymentSpec(Model):
    """What is to be served, on what, and how fast."""

    model: ModelSpec
    """Which model is served, and under which name."""
    engine: EngineSpec = EngineSpec()
    """How one vLLM engine is run."""
    slo: Slo
    """The latency objective."""
    pools: Pools
    """How many engines on which hardware."""
    scaling: Scaling = Scaling()
    """How far Paceline may go when it sizes the pools and changes roles."""
    routing: Routing = Routing()
    """The router's own pods, where it places requests, and what it refuses."""
    tenancy: Tenancy = Tenancy()
    """Who may send requests, and how much."""

    def parallelism_of(self, pool: Pool) -> Parallelism:
        """How an engine of ``pool`` is spread: the pool's own word, else the engine's."""
        return pool.parallelism or self.engine.parallelism

    @property
    def holds_for_itl(self) -> bool:
        """Whether routers let requests wait for a place among the streams of decode engines."""
        routing = self.routing
        in_order = routing.queue.order is QueueOrder.DEADLINE
        return (
            self.pools.mode is PoolMode.DISAGGREGATED and in_order and routing.admission.hold_for_itl is Toggle.ENABLED
        )

    def accelerators_of(self, pool: Pool) -> int:
        """Accelerators that one engine of ``pool`` takes from the budget; 0 on CPUs."""
        return self.parallelism_of(pool).accelerators if pool.accelerator.count else 0


class ModelDeployment(Model):
    """One language model, served at a latency objective by vLLM engines that are split into prefill and decode."""

    api_version: Literal["paceline.dev/v1alpha1"] = "paceline.dev/v1alpha1"
    """Version of this schema."""
    kind: Literal["ModelDeployment"] = "ModelDeployment"
    """Kind of the resource."""
    metadata: ObjectMeta
    """Standard object metadata."""
    spec: ModelDeploymentSpec
    """What is asked for."""
    status: ModelDeploymentStatus | None = None
    """What the operator found; written by the operator alone."""
