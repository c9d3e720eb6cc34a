"""What a scaling policy is to the simulator."""

from __future__ import annotations

from typing import Protocol

from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.telemetry import Sample


class Policy(Protocol):
    """Decides how many engines there are. All run behind the same router."""

    @property
    def name(self) -> str:
        """As ``--policy`` and the report call it."""
        ...

    @property
    def interval_seconds(self) -> float | None:
        """Time between two decisions; None if it only decides at the start."""
        ...

    @property
    def initial(self) -> Targets:
        """The engines that are ready when the load begins."""
        ...

    def decide(self, sample: Sample, cluster: Cluster) -> None:
        """Look at the newest sample there is and change the cluster, or not."""
        ...
