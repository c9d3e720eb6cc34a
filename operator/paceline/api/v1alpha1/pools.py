"""``spec.pools``: how many engines on which hardware, and whether prefill and decode are apart."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from paceline.api.v1alpha1.base import LabelKey, LabelValue, Model, Replicas, Seconds, named_list, plain_list
from paceline.api.v1alpha1.engine import Parallelism


class PoolMode(StrEnum):
    """Whether prefill and decode run on different engines."""

    DISAGGREGATED = "Disaggregated"
    AGGREGATED = "Aggregated"


class Accelerator(Model):
    """Accelerators of one engine pod."""

    product: LabelValue | None = None
    """Product as the node's label says it, for example `NVIDIA-H200`. Left out, any node that has the resource will
    do.
    """
    count: Annotated[int, Field(ge=0, le=64)]
    """Accelerators of one pod. 0 means that the engine computes on CPUs. An engine that needs more than one pod has
    spans several nodes, as a LeaderWorkerSet.
    """
    resource_name: LabelKey = "nvidia.com/gpu"
    """Kubernetes resource that stands for one accelerator."""
    product_label: LabelKey = "nvidia.com/gpu.product"
    """Node label that `product` is compared with."""


class NodeLabel(Model):
    """A label that a node must carry."""

    key: LabelKey
    """Label name."""
    value: LabelValue
    """Label value."""


class TolerationOperator(StrEnum):
    """How a toleration compares."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to pods that don't tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(Model):
    """A taint that does not keep engines away, as in a Kubernetes PodSpec."""

    key: LabelKey | None = None
    """Taint name; left out with operator Exists, it is every taint."""
    operator: TolerationOperator = TolerationOperator.EQUAL
    """Equal compares key and value, Exists only the key."""
    value: LabelValue | None = None
    """Taint value."""
    effect: TaintEffect | None = None
    """Left out, it is every effect."""
    toleration_seconds: Seconds | None = None
    """How long a NoExecute taint is tolerated. Left out, for ever."""


class Pool(Model):
    """Bounds on the number of engines in one role, and the hardware that they run on."""

    min_replicas: Replicas = 1
    """Fewest engines while the deployment is awake."""
    max_replicas: Replicas
    """Most engines. `scaling.gpuBudget` bounds all roles together."""
    accelerator: Accelerator
    """Accelerators of one engine pod."""
    parallelism: Parallelism | None = None
    """How one engine of this pool is spread over accelerators. Left out, it is `engine.parallelism`."""
    node_selector: Annotated[tuple[NodeLabel, ...], named_list("key", at_most=32)] = ()
    """Labels that a node must carry, besides the accelerator's."""
    tolerations: Annotated[tuple[Toleration, ...], plain_list(at_most=32)] = ()
    """Taints that do not keep engines away."""


class Pools(Model):
    """Engines by role. Prefill and decode that ask for the same hardware become one workload whose engines change
    roles while they run; different hardware means fixed roles.
    """

    mode: PoolMode = PoolMode.DISAGGREGATED
    """Disaggregated runs prefill and decode on different engines, Aggregated both on each. It can't be changed."""
    prefill: Pool | None = None
    """Engines that compute prompts; needed with mode Disaggregated."""
    decode: Pool | None = None
    """Engines that generate tokens; needed with mode Disaggregated."""
    aggregated: Pool | None = None
    """Engines that do both; needed with mode Aggregated."""
