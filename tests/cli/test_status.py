"""``paceline status``: what is wrong comes first, with the next thing to look at; then all the rest."""

from __future__ import annotations

import importlib
import json
import time
from typing import Any

import pytest
import yaml

from paceline.api import labels
from paceline.api.conditions import ConditionType, Reason
from paceline.cli.advice import ADVICE
from paceline.controller.lease import NAME as LEASE
from paceline.controller.report import WARNINGS
from tests.api.documents import ROOT
from tests.cli.conftest import Command
from tests.cli.fake_cluster import FakeCluster, at
from tests.cli.scenes import NAME, condition, engine, event, lease, not_ready, ready_deployment, ready_status, spec

WAITING = frozenset(
    {
        Reason.ENGINES_STARTING,
        Reason.ENGINES_MISSING,
        Reason.ENGINES_DRAINING,
        Reason.ROUTERS_STARTING,
        Reason.ROLLING_OUT,
        Reason.NOT_OBSERVED_YET,
    }
)
"""Reasons that pass by themselves: others say why, if they do not."""


def test_a_deployment_that_is_well_says_so_and_what_it_consists_of(cluster: FakeCluster, paceline: Command) -> None:
    ready_deployment(cluster)
    code, out, err = paceline("status", NAME)
    assert (code, err) == (0, "")
    assert cluster.tokens == {"Bearer secret-token"}
    assert out.startswith("prod/chat  Qwen/Qwen3-32B  ready for 10m\n")
    words = out.split()
    assert "!" not in words
    for fact in (
        "6 of 16",
        "TTFT 2000 ms, ITL 50 ms, for 95% of requests",
        "97% of 95% over 10m",
        "http://chat-router",
    ):
        assert fact in out
    rows = [line.split() for line in out.splitlines()]
    assert ["prefill", "1", "1", "0", "0"] in rows
    assert ["chat-c", "decode", "ready", "gpu-b", "60m", "0"] in rows
    assert ["chat-router-x", "ready", "gpu-a", "60m", "0"] in rows


def test_the_last_decision_is_told_with_its_reason(cluster: FakeCluster, paceline: Command) -> None:
    ready_deployment(cluster)
    _, out, _ = paceline("status", NAME)
    assert "Last decision 3m ago: 2 prefill + 1 decode -> 1 prefill + 2 decode, bound by ITL." in out
    assert "What bound the number of engines: the ITL objective." in out


def test_a_deployment_that_is_not_well_begins_with_what_is_wrong_since_when_and_where_to_look(
    cluster: FakeCluster, paceline: Command
) -> None:
    ready_deployment(cluster)
    message = "1 of 2 decode engines are ready. 0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    cluster.deployment(NAME, spec=spec(), status=not_ready("Unschedulable", message))
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
    engine(cluster, "chat-c", None, ready=False, node=None, age=240, conditions=(unschedulable,))
    code, out, _ = paceline("status", NAME)
    assert code == 1
    assert out.splitlines()[:5] == [
        "prod/chat  Qwen/Qwen3-32B  NOT READY for 4m: Unschedulable",
        f"! {message} (for 4m)",
        "  Find a node with room and the right accelerator, or ask for less.",
        "  $ kubectl describe pod -n prod chat-c",
        "  see docs/operations/runbooks/stuck-start.md",
    ]
    assert any(line.split()[:3] == ["chat-c", "-", "stuck"] and "no node" in line for line in out.splitlines())


CREATING = {"name": "engine", "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}
KILLED = {
    "name": "engine", "restartCount": 3, "state": {"running": {}},
    "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": at(60)}},
}  # fmt: skip
CRASHING = {
    "name": "engine",
    "restartCount": 7,
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m"}},
}


@pytest.mark.parametrize(
    ("pod", "state", "waits"),
    [
        ({"ready": False, "age": 90}, "starting", "its model to load and warm up, 90s of at most 10m"),
        ({"ready": False, "node": None}, "starting", "a node"),
        ({"ready": False, "containers": CREATING}, "starting", "ContainerCreating: no such volume"),
        (
            {"ready": False, "containers": KILLED},
            "starting",
            "OOMKilled with exit code 137 60s ago, started again; its",
        ),
        ({"ready": False, "containers": CRASHING}, "stuck", "Crashing: back-off 5m"),
        ({"notes": {labels.DRAIN: "true", labels.DRAIN_STARTED: at(20)}}, "draining", "its last requests, 20s of at m"),
        (
            {"notes": {labels.NEXT_ROLE: "prefill", labels.ROLE_CHANGE_STARTED: at(5)}},
            "changing",
            "its last requests before it serves prefill, 5s of at most 2m",
        ),
        ({"deletionTimestamp": at(1)}, "ending", "its processes to end"),
        (
            {"ready": False, "conditions": ({"type": "ContainersReady", "status": "True"},)},
            "starting",
            "the operator, which gives it a role and lets it serve",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_engine_that_does_not_serve_says_what_it_waits_for(
    cluster: FakeCluster, paceline: Command, pod: Any, state: str, waits: str
) -> None:
    ready_deployment(cluster)
    engine(cluster, "chat-z", "decode", **pod)
    event(cluster, "mount", "chat-z", "Pod", "FailedMount", "no such volume", ago=30)
    _, out, _ = paceline("status", NAME, "-o", "json")
    (line,) = (one for one in json.loads(out)["engines"] if one["pod"] == "chat-z")
    assert line["state"] == state
    assert line["waitsFor"].startswith(waits)


def test_an_operator_that_is_silent_is_named_before_anything_else(cluster: FakeCluster, paceline: Command) -> None:
    ready_deployment(cluster)
    lease(cluster, ago=10)
    assert "No operator" not in paceline("status", NAME)[1]
    lease(cluster, ago=300)
    _, out, _ = paceline("status", NAME)
    assert out.splitlines()[1] == "note: No operator has said for 5m that it lives: what stands here may be old."
    assert out.splitlines()[3] == "  $ paceline check"
    assert importlib.import_module("paceline.cli.status").LEASE == LEASE


def test_a_change_that_the_operator_has_not_seen_is_named(cluster: FakeCluster, paceline: Command) -> None:
    cluster.deployment(NAME, spec=spec(), status=ready_status(), generation=2)
    assert (
        "note: The operator has not seen the last change of the spec (generation 2, seen: 1)."
        in paceline("status", NAME)[1]
    )


def test_a_kind_that_the_cluster_does_without_is_no_trouble_while_all_is_ready(
    cluster: FakeCluster, paceline: Command
) -> None:
    for base, told in ((ready_status(), False), (not_ready("EnginesMissing", "0 of 2"), True)):
        missing = condition("Progressing", "False", "KindMissing", "The cluster has no PodMonitor.")
        base["conditions"] = [missing if one["type"] == "Progressing" else one for one in base["conditions"]]
        cluster.deployment(NAME, spec=spec(), status=base)
        assert ("$ kubectl api-resources" in paceline("status", NAME)[1]) is told


def test_a_deployment_that_nobody_has_looked_at_is_not_ready(cluster: FakeCluster, paceline: Command) -> None:
    cluster.deployment(NAME, spec=spec(), status=None)
    code, out, _ = paceline("status", NAME)
    assert code == 1
    assert "NOT READY: NotObservedYet" in out
    assert "$ paceline check" in out


def test_what_happened_last_is_told(cluster: FakeCluster, paceline: Command) -> None:
    ready_deployment(cluster)
    event(cluster, "a", NAME, labels.KIND, "RoleChanged", "chat-c serves decode now, prefill before.", ago=170)
    assert "2m ago  RoleChanged: chat-c serves decode now, prefill before." in paceline("status", NAME)[1]


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_programs_get_the_same_as_a_document(cluster: FakeCluster, paceline: Command, output: str, read: Any) -> None:
    ready_deployment(cluster)
    code, out, _ = paceline("status", NAME, "-o", output)
    found = read(out)
    assert code == 0
    assert (found["name"], found["ready"], found["accelerators"], found["budget"]) == (NAME, True, 6, 16)
    assert found["roles"][1] == {"role": "decode", "desired": 2, "ready": 2, "starting": 0, "draining": 0}
    _, out, _ = paceline("status", "-o", output)
    assert [one["name"] for one in read(out)] == [NAME]


def test_without_a_name_every_deployment_has_a_line(cluster: FakeCluster, paceline: Command) -> None:
    ready_deployment(cluster)
    cluster.deployment("bad", spec=spec(), status=not_ready("QuotaExceeded", "exceeded quota: gpus"))
    cluster.deployment("far", namespace="test", spec=spec(), status=ready_status())
    code, out, _ = paceline("status")
    assert code == 1
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows] == ["NAME", "bad", "chat"]
    assert rows[1][1:4] == ["False", "1:2", "2/3"]
    assert out.splitlines()[1].rstrip().endswith("exceeded quota: gpus")
    assert [line.split()[:2] for line in paceline("status", "-A")[1].splitlines()[1:]] == [
        ["prod", "bad"], ["prod", "chat"], ["test", "far"],
    ]  # fmt: skip


def test_a_namespace_without_deployments_says_so(cluster: FakeCluster, paceline: Command) -> None:
    assert paceline("status") == (0, "There is no ModelDeployment in namespace prod.\n", "")


def test_namespace_and_context_are_those_of_the_kubeconfig_unless_named(
    cluster: FakeCluster, paceline: Command
) -> None:
    cluster.deployment(NAME, namespace="elsewhere", spec=spec(), status=ready_status())
    assert paceline("status", NAME, "-n", "elsewhere")[0] == 0
    assert paceline("status", NAME, "--context", "there")[0] == 0
    assert paceline("status", NAME)[0] == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [("chta", "There is no ModelDeployment chta in namespace prod. Did you mean chat?"), ("far", "use -n test.")],
)
def test_a_name_that_is_not_there_is_answered_with_those_that_are(
    cluster: FakeCluster, paceline: Command, name: str, message: str
) -> None:
    ready_deployment(cluster)
    cluster.deployment("far", namespace="test", spec=spec(), status=ready_status())
    code, out, err = paceline("status", name)
    assert (code, out) == (6, "")
    assert message in err


@pytest.mark.parametrize(
    ("status_code", "answer", "message"),
    [
        (401, {"message": "Unauthorized"}, "log in again"),
        (403, {"message": "me cannot get modeldeployments"}, "You may not do that: me cannot get modeldeployments."),
        (500, {"message": "etcd is gone"}, "The API server answers 500: etcd is gone."),
    ],
)
def test_a_server_that_refuses_is_answered_with_what_to_do(
    cluster: FakeCluster, paceline: Command, status_code: int, answer: Any, message: str
) -> None:
    cluster.refusal = (status_code, answer)
    code, out, err = paceline("status", NAME)
    assert (code, out) == (6, "")
    assert message in err


def test_a_cluster_without_paceline_is_told_from_a_name_that_is_not_there(
    cluster: FakeCluster, paceline: Command
) -> None:
    cluster.crd = False
    for arguments in (["status"], ["status", NAME]):
        code, _, err = paceline(*arguments)
        assert code == 6
        assert "Paceline is not installed there" in err


def test_a_server_that_is_not_there_is_named(
    cluster: FakeCluster, paceline: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "other").mkdir()
    cluster.address = "http://127.0.0.1:9"
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "other")))
    code, _, err = paceline("status", NAME)
    assert (code, err) == (6, "paceline: The API server at http://127.0.0.1:9 can't be reached: Connection refused.\n")


def test_without_a_kubeconfig_it_says_what_it_needs(paceline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/kubeconfig")
    code, _, err = paceline("status")
    assert code == 2
    assert "Set KUBECONFIG to a kubeconfig" in err
    assert "A `paceline up` shows its state itself" in err


def test_watching_prints_what_has_changed_until_it_is_interrupted(
    cluster: FakeCluster, paceline: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready_deployment(cluster)
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            cluster.deployment(NAME, spec=spec(), status=not_ready("Crashing", "it ends again and again"))
        if looks == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    code, out, _ = paceline("status", NAME, "--watch")
    assert code == 130
    heads = [line for line in out.splitlines() if line.startswith("prod/chat")]
    assert [head.split()[2] for head in heads] == ["ready", "NOT"]


def test_watching_on_a_terminal_goes_on_while_the_server_does_not_answer(
    cluster: FakeCluster, paceline: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    ready_deployment(cluster)
    refusals = iter([(500, {"message": "etcd is gone"}), None])

    def sleep(_: float) -> None:
        try:
            cluster.refusal = next(refusals)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(time, "sleep", sleep)
    code, out, _ = paceline("status", NAME, "--watch")
    assert code == 130
    assert "etcd is gone. What follows is what was seen last." in " ".join(out.split())
    assert out.rindex("ready for 10m") > out.rindex("etcd is gone")


def test_colours_are_for_terminals_that_want_them(
    cluster: FakeCluster, paceline: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready_deployment(cluster)
    assert "\x1b[" not in paceline("status", NAME)[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;32m" in paceline("status", NAME)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;32m" not in paceline("status", NAME)[1]


def test_of_many_engines_in_service_some_have_a_line_and_of_the_others_all(
    cluster: FakeCluster, paceline: Command
) -> None:
    ready_deployment(cluster)
    for number in range(30):
        engine(cluster, f"chat-many-{number:02d}", "decode")
        engine(cluster, f"chat-slow-{number:02d}", None, ready=False)
    _, out, _ = paceline("status", NAME)
    rows = [line.split() for line in out.splitlines()]
    assert sum(row[2:3] == ["starting"] for row in rows) == 30
    assert sum(row[1:3] in (["decode", "ready"], ["prefill", "ready"]) for row in rows) == 20
    assert "and 13 more in service" in out


def test_a_name_and_all_namespaces_exclude_each_other(paceline: Command) -> None:
    code, _, err = paceline("status", NAME, "-A")
    assert code == 2
    assert "leave NAME out" in err


def test_every_reason_that_the_operator_warns_of_has_a_next_step_and_its_page_exists() -> None:
    assert ADVICE.keys() >= WARNINGS
    assert not ADVICE.keys() & WAITING
    missing = {advice.page for advice in ADVICE.values() if not (ROOT / advice.page).is_file()}
    assert missing == set()


@pytest.mark.parametrize("reason", sorted(ADVICE))
def test_every_next_step_is_printed_with_names_filled_in(
    cluster: FakeCluster, paceline: Command, reason: Reason
) -> None:
    ready_deployment(cluster)
    limited = reason in {Reason.GPU_BUDGET_REACHED, Reason.MAX_REPLICAS_REACHED, Reason.OBJECTIVE_INFEASIBLE}
    kind = ConditionType.SCALING_LIMITED if limited else ConditionType.PROGRESSING
    bad = ready_status()
    bad["conditions"] = [condition(kind, "True" if limited else "False", reason)]
    cluster.deployment(NAME, spec=spec(), status=bad)
    _, out, _ = paceline("status", NAME)
    (command,) = (line for line in out.splitlines() if line.startswith("  $ "))
    assert "{" not in command
