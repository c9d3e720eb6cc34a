"""Settings of the operator, parsed once by ``paceline operator`` from flags and environment and passed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from paceline.policy.resources import Images

CRASH_ENV: Final = "PACELINE_FAULT_CRASH_AFTER_WRITES"
"""For tests: the operator kills itself right after so many writes."""


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """How one replica of the operator runs."""

    identity: str
    """Unique among replicas; holder of the lease."""
    namespace: str | None = None
    """The only namespace that is looked after; None for all."""
    lease_namespace: str = "paceline-system"
    lease_seconds: int = 15
    """How long a leader that went silent stays leader."""
    images: Images = field(default_factory=Images)
    metrics_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside the pod
    metrics_port: int = 8080
    workers: int = 32
    """Passes that may run at the same time."""
    resync_seconds: int = 300
    """Time after which every ModelDeployment is looked at again, whatever happened."""
    taint_after_gpu_errors: int = 0
    """GPU errors on one node within a day for which it is tainted; 0: none ever is."""
    crash_after_writes: int | None = None
