"""What ``paceline plan`` recommends is what ``kubectl apply`` takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from paceline.api.v1alpha1 import from_manifest, load
from tests.cli.test_plan import files, plan
from tests.kube.client import Kube

__all__ = ["files"]
pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]


def test_the_server_takes_the_recommended_manifest_and_reads_it_as_python_does(
    kube: Kube, files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "recommended.yaml"
    assert plan(files, "--manifest", out) == 0
    status, answer = kube.create(yaml.safe_load(out.read_text()), "default", dryRun="All")
    assert status == 201, answer
    assert from_manifest(answer, "server").spec == load(out.read_text(), "recommended.yaml").spec
