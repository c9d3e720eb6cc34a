"""The ModelDeployment resource, version v1alpha1: the source of truth for the CRD, the builders and the command line.

One module a section of the spec; :mod:`~paceline.api.v1alpha1.rules` holds what must be true between fields, and
:mod:`~paceline.api.v1alpha1.load` turns text into a valid resource. Import names from here.
"""

from paceline.api.v1alpha1.base import PodTemplate, Toggle
from paceline.api.v1alpha1.engine import KvCache, Parallelism
from paceline.api.v1alpha1.load import check_update, from_manifest, load
from paceline.api.v1alpha1.model import Source, SourceType
from paceline.api.v1alpha1.pools import Accelerator, NodeLabel, Pool, PoolMode, Toleration
from paceline.api.v1alpha1.resource import ModelDeployment, ModelDeploymentSpec
from paceline.api.v1alpha1.scaling import ScalingMode
from paceline.api.v1alpha1.slo import Objective
from paceline.api.v1alpha1.status import Condition, ConditionStatus, ModelDeploymentStatus
from paceline.api.v1alpha1.tenancy import CacheIsolation, TenancyMode

__all__ = [
    "Accelerator",
    "CacheIsolation",
    "Condition",
    "ConditionStatus",
    "KvCache",
    "ModelDeployment",
    "ModelDeploymentSpec",
    "ModelDeploymentStatus",
    "NodeLabel",
    "Objective",
    "Parallelism",
    "PodTemplate",
    "Pool",
    "PoolMode",
    "ScalingMode",
    "Source",
    "SourceType",
    "TenancyMode",
    "Toggle",
    "Toleration",
    "check_update",
    "from_manifest",
    "load",
]
