"""``paceline explain NAME`` and ``paceline record``: decisions in words, and traces of what was seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from paceline.cli import run
from paceline.cli.decisions import lines_of
from paceline.planner.recorder import Recorder
from paceline.simulator.cluster import Targets
from paceline.traces.recording import read_recording
from tests.cli.conftest import Command
from tests.cli.fake_cluster import FakeCluster
from tests.planner.world import World, elastic, traffic

RESOURCE: dict[str, Any] = {
    "metadata": {"name": "chat", "namespace": "prod"},
    "spec": {"scaling": {"mode": "Auto"}},
    "status": {
        "conditions": [
            {"type": "MetricsAvailable", "status": "False", "reason": "MetricsStale", "message": "The planner holds."},
            {"type": "ScalingLimited", "status": "False", "reason": "WithinLimits", "message": ""},
            {"type": "Ready", "status": "True", "reason": "AsDesired", "message": ""},
        ],
        "roles": {"prefill": {"desired": 2}, "decode": {"desired": 3}},
        "scaling": {
            "recommended": {"prefill": 3, "decode": 3, "both": 0},
            "history": [
                {
                    "time": f"2026-01-0{number}T00:00:00Z",
                    "before": {"prefill": 1, "decode": 3, "both": 0},
                    "after": {"prefill": 2, "decode": 3, "both": 0},
                    "limit": "TTFT",
                    "reason": (
                        "Start 1 engine; the aim is 2 prefill. What bound the number of engines: the TTFT objective."
                    ),
                }
                for number in (3, 2, 1)
            ],
        },
    },
}


def test_an_explanation_says_what_is_asked_for_what_hinders_and_the_last_decisions() -> None:
    lines = list(lines_of(RESOURCE, most=2))
    assert lines[:3] == [
        "prod/chat: scaling mode Auto",
        "asked for now: 2 prefill + 3 decode",
        "the planner would have: 3 prefill + 3 decode",
    ]
    assert "MetricsAvailable is False: MetricsStale. The planner holds." in lines
    assert "last 2 decisions, newest first:" in lines
    assert "2026-01-03T00:00:00Z  1 prefill + 3 decode -> 2 prefill + 3 decode  (bound by TTFT)" in lines
    assert "  What bound the number of engines: the TTFT objective." in lines
    assert not any("2026-01-01" in line for line in lines)


def test_a_deployment_without_decisions_says_so() -> None:
    assert "no change has been decided yet" in list(lines_of({"metadata": {"name": "x"}}, most=3))


def test_a_local_run_is_explained_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "planner.json").write_text(json.dumps({**RESOURCE, "now": ["Keep 2 prefill and 3 decode."]}))
    assert run(["explain", "--run-dir", str(tmp_path)]) == 0
    assert "the last look:\n  Keep 2 prefill and 3 decode." in capsys.readouterr().out
    assert run(["explain", "--run-dir", str(tmp_path), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["roles"]["decode"]["desired"] == 3
    assert [one["reason"] for one in document["conditions"]] == ["MetricsStale", "WithinLimits"]
    assert document["now"] == ["Keep 2 prefill and 3 decode."]
    assert run(["explain", "--run-dir", str(tmp_path), "-o", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["roles"]["decode"]["desired"] == 3


def test_a_deployment_is_explained_from_the_cluster_that_kubectl_talks_to(
    cluster: FakeCluster, paceline: Command
) -> None:
    cluster.deployment("chat", spec=RESOURCE["spec"], status=RESOURCE["status"])
    code, out, _ = paceline("explain", "chat")
    assert (code, out.splitlines()) == (0, list(lines_of(RESOURCE, most=3)))
    code, _, err = paceline("explain", "chat", "--context", "there")
    assert code == 6
    assert "There is one in prod: use -n prod." in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name a ModelDeployment, or give --run-dir"),
        (["chat", "--request", "-"], "give one of them"),
        (["--run-dir", "."], "it has not decided anything yet"),
        (["--run-dir", "nowhere"], "can't read nowhere/planner.json: there is no such folder"),
    ],
)
def test_what_cannot_be_explained_is_answered_with_what_can(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_recording_becomes_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(elastic(), traffic(240.0, rate=lambda _: 3.0), initial=Targets(1, 1))
    world.run()
    recorder = Recorder(tmp_path)
    for step in world.steps:
        recorder.write(("default", "elastic"), world.planner, step)
    recorder.close()
    trace = tmp_path / "trace.jsonl"
    assert run(["record", str(tmp_path / "default.elastic.observations.jsonl"), "-o", str(trace)]) == 0
    assert "requests in" in capsys.readouterr().out
    requests = read_recording(trace).requests
    assert 400 < len(requests) < 900
    assert all(request.output_tokens >= 1 for request in requests)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Give either the RECORDING"),
        (["--router", "nowhere"], 2, "is no address; 10.0.0.7:8080 would be"),
        (["/nowhere"], 2, "can't read /nowhere"),
        (["--router", "127.0.0.1:9", "--minutes", "0.05", "--every", "0.5"], 4, "Nothing could be recorded"),
    ],
)
def test_what_cannot_be_recorded_is_answered_with_a_message(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["record", *arguments, "-o", str(tmp_path / "t.jsonl")]) == code
    assert message in capsys.readouterr().err


def test_a_damaged_recording_is_refused_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text('{"line":"step"}\n')
    assert run(["record", str(file), "-o", str(tmp_path / "t.jsonl")]) == 2
    assert "line 1: not a line of a recording" in capsys.readouterr().err
