"""``paceline plan``: what it prints and writes, and how it refuses what it can't use."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from paceline.api.v1alpha1 import load
from paceline.cli import run
from paceline.traces.generate import ConversationShape, generate_conversations
from paceline.traces.recording import write_recording

MANIFEST = """
apiVersion: paceline.dev/v1alpha1
kind: ModelDeployment
metadata: {name: plan}
spec:
  model: {name: Qwen/Qwen3-32B}
  engine: {parallelism: {tensor: 2}}
  slo: {ttftMilliseconds: 2000, itlMilliseconds: 25}
  pools:
    prefill: {maxReplicas: 4, accelerator: {product: NVIDIA-H200, count: 2}}
    decode: {maxReplicas: 4, accelerator: {product: NVIDIA-H200, count: 2}}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    manifest, trace = tmp_path / "plan.yaml", tmp_path / "load.jsonl"
    manifest.write_text(MANIFEST)
    shape = ConversationShape(requests_per_second=0.5)
    write_recording(generate_conversations(shape, seconds=120, rng=random.Random(1)), trace)
    return manifest, trace


def plan(files: tuple[Path, Path], *arguments: object) -> int:
    manifest, trace = files
    common = ("--trace", trace, "--trace-format", "paceline", "--engine-profile", "qwen3-32b-h200-tp2")
    return run(["plan", *(str(argument) for argument in (manifest, *common, *arguments))])


def test_the_manifest_the_fleets_and_the_picture_are_written(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, fleets, picture = tmp_path / "out.yaml", tmp_path / "fleets.json", tmp_path / "front.png"
    assert plan(files, "--manifest", out, "--json", fleets, "--plot", picture) == 0
    made = load(out.read_text(), "out.yaml")
    assert made.metadata.name == "plan"
    assert "&id" not in out.read_text(), "anchors are for machines"
    found = json.loads(fleets.read_text())
    assert found["best"]["meets_objective"]
    assert found["best"]["mode"] == str(made.spec.pools.mode)
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "recommended" in printed
    assert "Disaggregation" in printed
    assert "slower" in printed


def test_without_an_output_file_the_manifest_is_printed(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(files) == 0
    printed = capsys.readouterr().out
    assert load(printed[printed.index("# plan:") :], "output").metadata.name == "plan"


def test_a_budget_that_is_too_small_ends_with_the_exit_code_of_what_is_not_fine(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(files, "--max-gpus", 1) == 1
    assert "Nothing within the GPU budget" in capsys.readouterr().out


def test_standard_output_is_the_manifest_or_all_fleets_alone_where_programs_read_it(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(files, "-o", "yaml") == 0
    out, err = capsys.readouterr()
    assert load(out, "standard output").metadata.name == "plan"
    assert "Worth having on" in err
    assert plan(files, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["best"]["meets_objective"]


def test_an_unknown_profile_is_refused_with_the_known_ones(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(files, "--engine-profile", "warp-drive") == 2
    assert "'warp-drive' is not known. Known profiles" in capsys.readouterr().err
