"""Operators that die in the middle of what the planner decided: a flip, a drain, a start. The next one goes on from
there, and no request notices.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.kube.client import Kube
from tests.kube.kill_anywhere import allow_lease
from tests.kube.kubelet import Kubelet
from tests.kube.operators import Operator, start
from tests.kube.planned import Load, Watched, gpus, planned
from tests.kube.pods import ProcessSettings

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

CRASH = "PACELINE_FAULT_CRASH_AFTER_WRITES"
BUDGET = 6
CRASHES = (9, 6, 4, 3, 2)
"""Writes after which one operator after another ends; the last one lives."""


class Succession:
    """Operators that follow one another, each killed right after so many of its writes."""

    def __init__(self, kubeconfig: Path, folder: Path, namespace: str) -> None:
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._flags = ("--namespace", namespace, "--lease-namespace", namespace, "--lease-seconds", "3")
        self._left = list(CRASHES)
        self.crashes = 0
        self.now: Operator | None = None

    def keep(self) -> Operator:
        """The one that runs now; another one where the last has ended."""
        if self.now is None or self.now.process.poll() is not None:
            self.crashes += self.now is not None
            fault = {CRASH: str(self._left.pop(0))} if self._left else {}
            name = f"operator-{self.crashes}"
            log = self._folder / f"{name}.log"
            self.now = start(self._kubeconfig, log, *self._flags, environment=fault, identity=name)
        return self.now

    def stop(self) -> None:
        if self.now is not None:
            self.now.stop()


def test_operators_that_die_between_writes_of_flips_drains_and_starts_are_followed_by_one_that_goes_on(
    kube: Kube, kubelet: Kubelet, operator_account: Path, namespace: str, tmp_path: Path
) -> None:
    kubelet.run_processes(namespace, ProcessSettings(speed=1))
    allow_lease(kube, namespace)
    scene = planned(kube, namespace, gpuBudget=BUDGET)
    # Operators take their time to die and to be found dead: nobody is to be refused meanwhile.
    scene.manifest["spec"]["routing"]["admission"] = {"maxQueueSeconds": 300}
    operators = Succession(operator_account, tmp_path, namespace)

    def until(what: str, look: object, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not look():  # type: ignore[operator]
            operators.keep()
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; {scene.describe()}"
            time.sleep(0.2)

    try:
        scene.apply()
        until("two engines serve", lambda: sum(scene.roles().values()) == 2 and scene.pods("router"), 150)
        until("the router serves", lambda: scene.condition("RouterReady").get("status") == "True", 60)
        with Watched(lambda: gpus(scene)) as held:
            with Load(scene, rate=3.1, prompt=6000, answer=20) as load:
                until("a start is done", lambda: scene.roles()["prefill"] == 2, 120)
            with Load(scene, rate=0.3, prompt=300, answer=600) as streams:
                until("it has shrunk", lambda: scene.roles() == {"prefill": 1, "decode": 1}, 150)
        assert load.failed == []
        assert streams.failed == []
        assert held.most <= BUDGET
        assert operators.crashes >= 3, operators.crashes
    finally:
        operators.stop()
