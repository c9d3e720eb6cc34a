"""The fleet file: how the local runtime tells the router which engines there are, as the pod watch does in a
cluster.
"""

from __future__ import annotations

import os
from pathlib import Path

from paceline.api import wire
from paceline.errors import LocalRuntimeError


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
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            draft.write_bytes(wire.encode(fleet))
            draft.replace(self.path)
        except OSError as error:
            raise LocalRuntimeError(f"Can't write {self.path}: {error.strerror}.") from None
        self._fleet = fleet
        return True
