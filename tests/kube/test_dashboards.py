"""The dashboards on a deployment that an operator runs and a planner sizes, through a real Prometheus.

What is scraped are the pages of the processes themselves, found as the PodMonitors say. The planner asks the same
Prometheus. ``PACELINE_PICTURES=docs/operations/img`` draws the panels there.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from paceline.api.v1alpha1.load import from_manifest
from paceline.local.files import replace
from paceline.observability.dashboards import DASHBOARDS
from paceline.policy.resources.pod_monitor import pod_monitors
from tests.kube.client import Kube, Manifest
from tests.kube.kill_anywhere import allow_lease
from tests.kube.kubelet import Kubelet
from tests.kube.operators import Operator, running
from tests.kube.planned import Load, planned, seen
from tests.kube.pods import ProcessSettings
from tests.kube.scene import Scene
from tests.observability.boards import CONTROL_PLANE, annotations, resolved, unresolved, values, without_data
from tests.observability.live import Prometheus, scraping
from tests.observability.sheets import Look, sheet

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

TENANTS = "tenants"
"""This deployment has none; the local run of tests/observability has."""
LOOKED_SECONDS = 90.0


def found(scene: Scene, operator: Operator) -> list[Manifest]:
    """Targets as the Prometheus operator finds them by the PodMonitors of the deployment, and the operator's page."""
    pods = [pod for component in ("engine", "router") for pod in scene.pods(component)]
    groups: list[Manifest] = [
        {"targets": [operator.address], "labels": {"namespace": "paceline-system", "pod": "paceline-operator-0"}}
    ]
    for monitor in pod_monitors(from_manifest(scene.resource, "the API server")):
        spec = monitor["spec"]
        wanted = spec["selector"]["matchLabels"].items()
        for pod in pods:
            marks = pod["metadata"]["labels"]
            if wanted <= marks.items():
                addresses = [
                    f"{pod['status']['podIP']}:{_port(pod, one['port'])}" for one in spec["podMetricsEndpoints"]
                ]
                own = {re.sub(r"\W", "_", name): marks[name] for name in spec["podTargetLabels"] if name in marks}
                where = {"namespace": scene.namespace, "pod": pod["metadata"]["name"]}
                groups.append({"targets": addresses, "labels": {**own, **where}})
    return groups


def _port(pod: Manifest, name: str) -> int:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
    (number,) = [int(port["containerPort"]) for port in ports if port["name"] == name]
    return number


def test_every_query_of_every_panel_has_an_answer(
    kube: Kube, kubelet: Kubelet, operator_account: Path, namespace: str, tmp_path: Path
) -> None:
    kubelet.run_processes(namespace, ProcessSettings(speed=1))
    allow_lease(kube, namespace)
    scene = planned(kube, namespace, gpuBudget=6, scaleDownWindowSeconds=300)
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 2
    chosen = values(namespace, scene.name)
    file = tmp_path / "targets.json"

    def write(operator: Operator) -> None:
        replace(file, json.dumps(found(scene, operator)).encode())

    file.write_text("[]")
    with scraping(tmp_path, file) as prometheus:
        flags = ("--namespace", namespace, "--lease-namespace", namespace, "--prometheus-url", prometheus.url)
        with running(operator_account, tmp_path / "operator.log", *flags) as operator:
            scene.apply().until_ready(seconds=180)
            write(operator)
            seen(scene)
            scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 1
            scene.apply().until_ready()
            began = time.monotonic()
            with Load(scene, rate=3.5, prompt=6000, answer=60) as load:
                scene.until_roles(prefill=2, decode=1, seconds=180)
                write(operator)
                time.sleep(max(0.0, LOOKED_SECONDS - (time.monotonic() - began)))
            boards = [name for name in DASHBOARDS if name != TENANTS]
            assert without_data(prometheus, boards, chosen) == []
            marks = annotations(boards)
            assert marks
            assert [mark for mark in marks if not prometheus.range(resolved(mark, chosen), LOOKED_SECONDS)] == []
            assert unresolved(prometheus, boards, chosen) == []
            assert [rule["name"] for rule in prometheus.rules() if rule["health"] != "ok"] == []
            scene.until("panels show what there is", lambda: asked(prometheus, chosen) == dict(scene.roles()))
            for name in CONTROL_PLANE:
                look = Look(prometheus, chosen, LOOKED_SECONDS)
                sheet(name, look, Path(os.environ.get("PACELINE_PICTURES", tmp_path)) / f"dashboard-{name}.png")
    assert load.failed == []


def asked(prometheus: Prometheus, chosen: dict[str, str]) -> dict[str, int]:
    """Engines that the planner asks for, by role."""
    who = f'namespace="{chosen["namespace"]}",deployment="{chosen["deployment"]}"'
    series = prometheus.query(f"paceline_planner_desired_engines{{{who}}} > 0")
    return {one["metric"]["role"]: int(float(one["value"][1])) for one in series}
