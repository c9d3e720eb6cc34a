"""The fleet file: how the local runtime tells the router which engines there are, as the pod watch does in a
cluster.
"""

from __future__ import annotations

from pathlib import Path

from paceline.api import wire
from paceline.local.files import replace


class FleetFile:
    """Writes :class:`~paceline.api.wire.Fleet` documents so that a reader sees a whole one or the one before it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fleet: wire.Fleet | None = None

    @property
    def fleet(self) -> wire.Fleet | None:
        """What was written last."""
        return self._fleet

    def write(self, engines: tuple[wire.EngineEndpoint, ...]) -> bool:
        """Publish ``engines`` under the next version, unless nothing has changed. Returns whether it wrote.

        Raises LocalRuntimeError if the file can't be written.
        """
        if self._fleet is not None and self._fleet.engines == engines:
            return False
        version = 1 if self._fleet is None else self._fleet.version + 1
        fleet = wire.Fleet(version=version, engines=engines)
        replace(self.path, wire.encode(fleet))
        self._fleet = fleet
        return True
