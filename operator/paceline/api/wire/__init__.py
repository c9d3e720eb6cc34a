"""Documents that cross a process boundary: operator or local runtime -> engine worker and router.

They are JSON with camelCase keys, decoded strictly by msgspec: an unknown key, a wrong type or a number out of range
is a :class:`~paceline.errors.ConfigError` that names the field. Durations and sizes carry their unit in the name.
Import names from here.
"""

from paceline.api.wire.base import decode, encode
from paceline.api.wire.engine import (
    Accelerators,
    EngineConfig,
    EnginePorts,
    EngineTls,
    KvCache,
    LoraAdapter,
    ModelSource,
    Parallelism,
    SharedTier,
)
from paceline.api.wire.fleet import EngineEndpoint, Fleet
from paceline.api.wire.router import (
    Admission,
    ColdWarmSplit,
    Hedging,
    Objective,
    OutputHealth,
    PlacementWeights,
    Queue,
    RequestClass,
    RouterConfig,
    RouterTls,
    RouterToEngineTls,
    Sessions,
    Tenancy,
    Tenant,
    Timeouts,
)
from paceline.api.wire.words import (
    ConnectorKind,
    EngineState,
    Late,
    Media,
    QueueOrder,
    Role,
    SharedTierKind,
    SourceKind,
    SplitMode,
    WatchMode,
)

__all__ = [
    "Accelerators",
    "Admission",
    "ColdWarmSplit",
    "ConnectorKind",
    "EngineConfig",
    "EngineEndpoint",
    "EnginePorts",
    "EngineState",
    "EngineTls",
    "Fleet",
    "Hedging",
    "KvCache",
    "Late",
    "LoraAdapter",
    "Media",
    "ModelSource",
    "Objective",
    "OutputHealth",
    "Parallelism",
    "PlacementWeights",
    "Queue",
    "QueueOrder",
    "RequestClass",
    "Role",
    "RouterConfig",
    "RouterTls",
    "RouterToEngineTls",
    "Sessions",
    "SharedTier",
    "SharedTierKind",
    "SourceKind",
    "SplitMode",
    "Tenancy",
    "Tenant",
    "Timeouts",
    "WatchMode",
    "decode",
    "encode",
]
