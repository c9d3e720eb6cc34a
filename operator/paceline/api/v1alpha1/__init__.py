"""The ModelDeployment resource, version v1alpha1: the source of truth for the CRD, the builders and the command line.

One module a section of the spec; :mod:`~paceline.api.v1alpha1.rules` holds what must be true between fields, and
:mod:`~paceline.api.v1alpha1.load` turns text into a valid resource. Import names from here.
"""

from paceline.api.v1alpha1.base import PodTemplate, SecretKey, Toggle
from paceline.api.v1alpha1.engine import EngineSpec, EnvVar, KvCache, Parallelism
from paceline.api.v1alpha1.load import check_update, from_manifest, load
from paceline.api.v1alpha1.model import LoraAdapter, ModelSpec, Source, SourceType
from paceline.api.v1alpha1.pools import Accelerator, NodeLabel, Pool, PoolMode, Pools, Toleration
from paceline.api.v1alpha1.resource import ModelDeployment, ModelDeploymentSpec, ObjectMeta
from paceline.api.v1alpha1.routing import Routing, ServiceType
from paceline.api.v1alpha1.scaling import Scaling, ScalingMode
from paceline.api.v1alpha1.slo import Objective, RequestClass, Slo
from paceline.api.v1alpha1.status import Condition, ConditionStatus, ModelDeploymentStatus
from paceline.api.v1alpha1.tenancy import CacheIsolation, Tenancy, TenancyMode, Tenant

__all__ = [
    "Accelerator",
    "CacheIsolation",
    "Condition",
    "ConditionStatus",
    "EngineSpec",
    "EnvVar",
    "KvCache",
    "LoraAdapter",
    "ModelDeployment",
    "ModelDeploymentSpec",
    "ModelDeploymentStatus",
    "ModelSpec",
    "NodeLabel",
    "ObjectMeta",
    "Objective",
    "Parallelism",
    "PodTemplate",
    "Pool",
    "PoolMode",
    "Pools",
    "RequestClass",
    "Routing",
    "Scaling",
    "ScalingMode",
    "SecretKey",
    "ServiceType",
    "Slo",
    "Source",
    "SourceType",
    "Tenancy",
    "TenancyMode",
    "Tenant",
    "Toggle",
    "Toleration",
    "check_update",
    "from_manifest",
    "load",
]
