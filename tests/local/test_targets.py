"""The file that tells a Prometheus where the pods of the local runtime are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paceline.errors import LocalRuntimeError
from paceline.local.targets import Target, TargetsFile
from paceline.policy.resources.pod_monitor import TARGET_LABELS

ENGINE = Target("127.0.0.1:1", "e-0", "engine", pool="flexible", role="decode", revision="abc")
ROUTER = Target("127.0.0.1:2", "r-0", "router")


def written(path: Path, *targets: Target) -> list[dict[str, Any]]:
    TargetsFile(path, namespace="ns", deployment="chat").write(targets)
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_series_get_the_labels_that_pod_monitors_give_them(tmp_path: Path) -> None:
    (group,) = written(tmp_path / "targets.json", ENGINE)
    assert group["targets"] == ["127.0.0.1:1"]
    pod_labels = {label.replace(".", "_").replace("/", "_") for label in TARGET_LABELS}
    assert group["labels"].keys() == pod_labels | {"namespace", "pod"}
    assert group["labels"]["paceline_dev_deployment"] == "chat"


def test_labels_that_a_pod_lacks_are_left_out(tmp_path: Path) -> None:
    (group,) = written(tmp_path / "targets.json", ROUTER)
    assert "paceline_dev_role" not in group["labels"]


def test_nothing_is_written_while_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    file = TargetsFile(path, namespace="ns", deployment="chat")
    file.write((ENGINE,))
    path.unlink()
    file.write((ENGINE,))
    assert not path.exists()
    file.write((ENGINE, ROUTER))
    assert path.exists()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LocalRuntimeError, match="Can't write"):
        written(tmp_path / "missing" / "targets.json", ENGINE)
