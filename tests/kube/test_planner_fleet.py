"""Several deployments under one GPU quota on a real API server: who takes from whom, and that it is never exceeded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.api import labels
from tests.kube.client import Kube
from tests.kube.kill_anywhere import allow_lease
from tests.kube.kubelet import Kubelet
from tests.kube.operators import running
from tests.kube.planned import GPUS, Load, Watched, history, planned, seen
from tests.kube.pods import ProcessSettings
from tests.kube.scene import Scene

pytestmark = [pytest.mark.kube, pytest.mark.timeout(1200)]

QUOTA = 6 * GPUS
"""Two engines for each deployment's minimum, and two to share."""


@pytest.fixture
def sharing(
    kube: Kube, kubelet: Kubelet, operator_account: Path, namespace: str, tmp_path: Path
) -> Iterator[tuple[Scene, Scene]]:
    """Two deployments whose operator has a quota; the second's priority is the test's to set."""
    kubelet.run_processes(namespace, ProcessSettings(speed=1))
    allow_lease(kube, namespace)
    flags = ("--namespace", namespace, "--lease-namespace", namespace, "--gpu-quota", str(QUOTA))
    with running(operator_account, tmp_path / "operator.log", *flags):
        # Longer than an engine takes to start, as windows are: else the noise of a short demand window takes engines.
        both = [planned(kube, namespace, name, scaleDownWindowSeconds=30) for name in ("first", "second")]
        for scene in both:
            # Who has to give engines away answers late for a while, and refuses nobody.
            scene.manifest["spec"]["routing"]["admission"] = {"maxQueueSeconds": 300, "late": "Serve"}
        yield both[0], both[1]


@pytest.mark.parametrize(
    ("priority", "split", "why"),
    [(5, (2, 4), "has priority 5"), (0, (3, 3), "both have priority 0")],
    ids=["higher priority", "same priority"],
)
def test_who_needs_gpus_gets_them_from_who_has_more_than_its_share_and_gives_them_back(
    kube: Kube, sharing: tuple[Scene, Scene], priority: int, split: tuple[int, int], why: str
) -> None:
    first, second = sharing
    second.manifest["metadata"]["annotations"] = {labels.PRIORITY: str(priority)}
    for scene in sharing:
        scene.apply()
    for scene in sharing:
        seen(scene.until_ready(seconds=150))
    ever: set[str] = set()

    def held() -> int:
        pods = kube.pods(first.namespace, f"{labels.COMPONENT}={labels.COMPONENT_ENGINE}")
        ever.update(pod["metadata"]["name"] for pod in pods)
        return GPUS * sum(pod["status"].get("phase") not in {"Succeeded", "Failed"} for pod in pods)

    def engines() -> tuple[int, int]:
        return sum(first.roles().values()), sum(second.roles().values())

    with Watched(held) as watched, Load(first, rate=3.0, prompt=12_000, answer=20, seconds=600) as load:
        first.until("the first takes what is free", lambda: engines() == (4, 2), seconds=180)
        with Load(second, rate=3.0, prompt=12_000, answer=20) as more:
            second.until("the second has its share", lambda: engines() == split, seconds=200)
            more.cease()
            first.until("the first gets it back", lambda: engines() == (4, 2), seconds=200)
    assert load.failed == more.failed == []
    assert watched.most == QUOTA
    assert len(ever) <= QUOTA // GPUS + 2 * (4 - split[0]), "engines came and went"
    giver, taker = (f"{scene.namespace}/{scene.name}" for scene in sharing)
    for scene in sharing:
        told = [one["reason"] for one in history(scene) if f"{giver} gives " in one["reason"]]
        assert told, history(scene)
        assert all(f"GPUs to {taker}: " in reason and why in reason for reason in told)
