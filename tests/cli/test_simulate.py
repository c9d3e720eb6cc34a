"""``paceline simulate``: what it writes, and how it refuses what it can't use."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from paceline.cli import run
from paceline.traces.generate import ConversationShape, generate_conversations
from paceline.traces.recording import write_recording

MANIFEST = """
apiVersion: paceline.dev/v1alpha1
kind: ModelDeployment
metadata: {name: sim}
spec:
  model: {name: Qwen/Qwen3-32B, servedName: qwen3-32b}
  engine: {parallelism: {tensor: 2}}
  slo: {ttftMilliseconds: 2000, itlMilliseconds: 25}
  pools:
    prefill: {maxReplicas: 8, accelerator: {product: NVIDIA-H200, count: 2}}
    decode: {maxReplicas: 8, accelerator: {product: NVIDIA-H200, count: 2}}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "sim.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "load.jsonl"
    shape = ConversationShape(requests_per_second=2)
    write_recording(generate_conversations(shape, seconds=120, rng=random.Random(1)), path)
    return path


def simulate(*arguments: object) -> int:
    return run(["simulate", *(str(argument) for argument in arguments)])


def test_the_report_has_a_row_for_each_policy_in_the_order_asked_for(
    manifest: Path, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "report.json", tmp_path / "picture.png"
    code = simulate(
        manifest, "--trace", trace, "--trace-format", "paceline", "--policy", "oracle,static-best",
        "--json", out, "--plot", plot,
    )  # fmt: skip
    assert code == 0
    report = json.loads(out.read_text())
    assert [policy["policy"] for policy in report["policies"]] == ["oracle", "static-best"]
    for policy in report["policies"]:
        assert policy["completed"] + policy["rejected"] + policy["lost"] == policy["requests"]
        assert policy["lost"] == 0
        assert policy["ttft_ms"].keys() == policy["itl_ms"].keys() == {"p50", "p90", "p99"}
    best, oracle = report["policies"][1], report["policies"][0]
    assert oracle["gpu_hours"] <= best["gpu_hours"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "static-best" in printed
    assert "requests/s" in printed


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_programs_get_the_report_on_standard_output(
    manifest: Path, trace: Path, capsys: pytest.CaptureFixture[str], output: str, read: Callable[[str], Any]
) -> None:
    common = ("--trace", trace, "--trace-format", "paceline", "--policy", "static-best")
    assert simulate(manifest, *common, "-o", output) == 0
    assert [policy["policy"] for policy in read(capsys.readouterr().out)["policies"]] == ["static-best"]


def test_the_same_seed_writes_the_same_policies(manifest: Path, trace: Path, tmp_path: Path) -> None:
    reports = []
    for name in ("one.json", "two.json"):
        out = tmp_path / name
        common = ("--trace", trace, "--trace-format", "paceline", "--rate-scale", 2, "--seed", 3)
        assert simulate(manifest, *common, "--policy", "static-best", "--json", out) == 0
        reports.append(json.loads(out.read_text())["policies"])
    assert reports[0] == reports[1]
    assert reports[0][0]["requests"] > 300


def test_the_hash_seed_of_the_interpreter_changes_no_byte(manifest: Path, trace: Path, tmp_path: Path) -> None:
    written = []
    for hash_seed in ("1", "2"):
        out = tmp_path / f"{hash_seed}.json"
        command = ["simulate", str(manifest), "--trace", str(trace), "--trace-format", "paceline", "--json", str(out)]
        code = "import sys; from paceline.cli import run; sys.exit(run(sys.argv[1:]))"
        subprocess.run(
            [sys.executable, "-c", code, *command, "--policy", "planner,hpa", "--rate-scale", "1.5", "--seed", "7"],
            check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        # All but how long it took.
        written.append(re.sub(rb'"(wall_seconds|simulated_requests_per_second)": [^,\n]+', b"", out.read_bytes()))
    assert written[0] == written[1]
    assert b'"hpa"' in written[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "magic"], "--policy: 'magic' is not known. Known policies: static-best"),
        (["--policy", "hpa,hpa"], "names a policy twice"),
        (["--trace", "/nowhere/load.jsonl"], "/nowhere/load.jsonl: can't read the trace: No such file"),
        (["--trace", "/"], "/: can't read the trace: Is a directory"),
        (["--engine-profile", "abacus"], "engine profile 'abacus' is not known"),
        (["--start-minute", "500"], "no request arrives between minute 500"),
        (["--rate-scale", "0"], "0 is not in the range"),
        (["--trace-format", "excel"], "is not one of"),
        (["--json", "/nowhere/out.json"], "--json: can't write /nowhere/out.json"),
        (["--plot", "/nowhere/out.png"], "--plot: can't write /nowhere/out.png"),
    ],
)
def test_what_can_not_be_used_is_named_with_what_is_allowed(
    manifest: Path, trace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = {"--trace": str(trace), "--policy": "static-best", "--trace-format": "paceline", "--minutes": "0.5"}
    given.update(zip(arguments[::2], arguments[1::2], strict=True))
    flags = [text for pair in given.items() for text in pair]
    assert simulate(manifest, *flags) != 0
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error


def test_a_trace_of_another_format_is_refused(manifest: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(manifest, "--trace", trace, "--trace-format", "mooncake") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "there is no request in it that is a Mooncake request" in error
    assert error.endswith("--trace-format names others.")


def test_a_recording_is_known_without_its_format(
    manifest: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(manifest, "--trace", trace, "--policy", "static-best", "-o", "json") == 0
    told = capsys.readouterr().out
    assert (
        simulate(manifest, "--trace", trace, "--policy", "static-best", "-o", "json", "--trace-format", "paceline") == 0
    )
    assert json.loads(told)["policies"] == json.loads(capsys.readouterr().out)["policies"]


def test_malformed_rows_are_counted_and_named(manifest: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with trace.open("a") as file:
        file.write("{broken\n")
    assert simulate(manifest, "--trace", trace, "--trace-format", "paceline", "--policy", "static-best") == 0
    assert "1 malformed rows were left out" in capsys.readouterr().err


def test_hardware_that_nothing_is_known_of_needs_a_profile(
    manifest: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.write_text(MANIFEST.replace("NVIDIA-H200", "Abacus"))
    assert simulate(manifest, "--trace", trace, "--trace-format", "paceline") == 2
    assert "Choose one with --engine-profile" in capsys.readouterr().err


def test_roles_on_different_hardware_are_refused_in_words(
    manifest: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.write_text(MANIFEST.replace("NVIDIA-H200", "NVIDIA-H100", 1))
    assert simulate(manifest, "--trace", trace, "--trace-format", "paceline") == 2
    assert "the simulator knows one kind" in " ".join(capsys.readouterr().err.split())


def test_help_does_not_wait_for_numpy_or_matplotlib() -> None:
    code = "import sys, paceline.cli; print(sorted({'numpy', 'matplotlib', 'pydantic'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"
