"""Where a Prometheus finds the pods of the local runtime: a file for its ``file_sd_configs``, as PodMonitors do it in a
cluster, with the same labels. So dashboards and rules work on ``paceline up`` as they do on a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from paceline.api import labels
from paceline.local.files import replace

FILE: Final = "prometheus-targets.json"


@dataclass(frozen=True, slots=True)
class Target:
    """One page of metrics."""

    address: str
    """``host:port``; the path is ``/metrics``."""
    pod: str
    component: str
    pool: str = ""
    role: str = ""
    revision: str = ""


class TargetsFile:
    """Writes the file so that a reader sees a whole one or the one before it."""

    def __init__(self, path: Path, *, namespace: str, deployment: str) -> None:
        self._path = path
        self._common = {"namespace": namespace, _name(labels.DEPLOYMENT): deployment}
        self._written: bytes | None = None

    def write(self, targets: Iterable[Target]) -> None:
        """Publish ``targets``, unless nothing has changed. Raises LocalRuntimeError if the file can't be written."""
        groups = [{"targets": [target.address], "labels": self._labels(target)} for target in targets]
        document = json.dumps(groups, indent=1).encode()
        if document == self._written:
            return
        replace(self._path, document)
        self._written = document

    def _labels(self, target: Target) -> dict[str, str]:
        own = {
            "pod": target.pod,
            _name(labels.COMPONENT): target.component,
            _name(labels.POOL): target.pool,
            _name(labels.ROLE): target.role,
            _name(labels.REVISION): target.revision,
        }
        return {**self._common, **{name: value for name, value in own.items() if value}}


def _name(label: str) -> str:
    """A pod's label as Prometheus writes it."""
    return label.replace(".", "_").replace("/", "_").replace("-", "_")
