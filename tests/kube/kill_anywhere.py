"""Kills the operator between any two of its writes, over and over, and checks that what it leaves behind comes right.

One seed is one deployment in a namespace of its own: it is made, changed a few times and looked at, while operators
that end themselves right after their N-th write follow one another. ``python -m tests.kube.kill_anywhere --seeds 200``
is the whole gate; the suite runs a few seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import yaml

from paceline.api import labels
from paceline.api.labels import GROUP, PLURAL, VERSION
from tests.api.documents import ROOT
from tests.helm.charts import NAME, NAMESPACE
from tests.kube.client import Kube, Manifest, condition, connect
from tests.kube.cluster import api_server
from tests.kube.kubelet import Kubelet
from tests.kube.operators import Operator, start
from tests.kube.prefork import Prefork
from tests.kube.scene import Scene
from tests.kube.testbed import TestBed

CRASHED = 137
MOST_CRASHES = 6
"""Of operators in one seed; the one after them lives."""
LATEST_WRITE = 14
"""An operator that is to crash does so after at most this many writes."""
STEP_SECONDS = 300
"""A bound on hanging, not on speed: many seeds share the machine, and each starts an operator after each crash."""
BUDGET = 4
POLL_SECONDS = 0.15
STEPS = 3
CHILDREN = {"Service": 2, "ServiceAccount": 1, "Role": 1, "RoleBinding": 1, "NetworkPolicy": 2}
"""How many of each kind a deployment has: nothing is missing, and nothing is there twice."""


@dataclass
class Report:
    """What one seed did."""

    seed: int
    steps: list[str]
    crashes: list[int]
    seconds: float

    def __str__(self) -> str:
        return f"{', '.join(self.steps)}; crashes after {self.crashes} writes; {self.seconds:.0f} s"


class Seed:
    """One deployment and the operators that look after it."""

    def __init__(self, kube: Kube, kubeconfig: Path, folder: Path, seed: int, prefork: Prefork | None) -> None:
        self.scene = Scene(kube, f"seed-{seed}-{uuid4().hex[:6]}").pool(maxReplicas=3)
        self.scene.set("spec.scaling", {"gpuBudget": BUDGET, "mode": "Off"})
        self.scene.manifest["spec"]["engine"]["drainSeconds"] = 1
        self.seed = seed
        self.crashes: list[int] = []
        self._kubeconfig = kubeconfig
        self._prefork = prefork
        self._log = folder / f"operator-{seed}.log"
        self._dice = random.Random(seed)
        self._operator: Operator | None = None

    def run(self) -> Report:
        began = time.monotonic()
        kube, namespace = self.scene.kube, self.scene.namespace
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        kube.ok("POST", "/api/v1/namespaces", body)
        allow_lease(kube, namespace)
        steps = ["apply", *(self._dice.choice(sorted(CHANGES)) for _ in range(STEPS))]
        try:
            for step in steps:
                if step != "apply":
                    CHANGES[step](self.scene, self._dice)
                self.scene.apply()
                self._settle(step)
            self._check()
            # Garbage collection needs no operator: whoever is killed last leaves nothing behind either.
            self.scene.delete()
            self.scene.until_gone()
        finally:
            if self._operator is not None:
                self._operator.kill()
            kube.delete(f"/api/v1/namespaces/{namespace}")
        return Report(self.seed, steps, self.crashes, time.monotonic() - began)

    def _settle(self, step: str) -> None:
        """Wait until the deployment is as its spec says, with a new operator in the place of each that has crashed."""
        deadline = time.monotonic() + STEP_SECONDS
        while not self._settled():
            self._keep_an_operator()
            self._count_engines()
            if time.monotonic() > deadline:
                shown = yaml.safe_dump(self.scene.describe(), sort_keys=False)
                log = self._operator.tail(15) if self._operator is not None else ""
                raise AssertionError(f"seed {self.seed}: {step} does not settle after {self.crashes}\n{shown}\n{log}")
            time.sleep(POLL_SECONDS)

    def _keep_an_operator(self) -> None:
        if self._operator is not None:
            status = self._operator.process.poll()
            if status is None:
                return
            assert status == CRASHED, f"seed {self.seed}: the operator ended with {status}\n{self._operator.tail()}"
        environment = {}
        if len(self.crashes) < MOST_CRASHES:
            self.crashes.append(self._dice.randint(1, LATEST_WRITE))
            environment["PACELINE_FAULT_CRASH_AFTER_WRITES"] = str(self.crashes[-1])
        # Each has a lease of its own: a crashed holder would keep the next one waiting.
        flags = ("--namespace", self.scene.namespace, "--lease-namespace", self.scene.namespace, "--lease-seconds", "3")
        self._operator = start(self._kubeconfig, self._log, *flags, environment=environment, prefork=self._prefork)

    def _settled(self) -> bool:
        resource = self.scene.resource
        status = resource.get("status") or {}
        ready = condition(resource, "Ready")
        generation = resource["metadata"]["generation"]
        return (
            (ready.get("status"), ready.get("observedGeneration")) == ("True", generation)
            and status.get("observedGeneration") == generation
            and self.scene.roles() == self._wanted()
            and len(self.scene.pods()) == sum(self._wanted().values())
            and len(self._deployments()) == 2
            # A child that was just lost says nothing in the status before an operator has seen that.
            and all(len(self.scene.children(kind)) == count for kind, count in CHILDREN.items())
            and not self._strays()
        )

    def _strays(self) -> list[str]:
        """Engines of a workload that was deleted: they go with it, and it takes a while until they are told."""
        workloads = {one["metadata"]["uid"] for one in self.scene.children("Deployment")}
        sets = self.scene.kube.items(f"/apis/apps/v1/namespaces/{self.scene.namespace}/replicasets")
        kept = {one["metadata"]["uid"] for one in sets if _owners(one) & workloads}
        return [pod["metadata"]["name"] for pod in self.scene.pods() if not _owners(pod) & kept]

    def _wanted(self) -> dict[str, int]:
        pools = self.scene.manifest["spec"]["pools"]
        return {role: pools[role].get("minReplicas", 1) for role in ("prefill", "decode")}

    def _deployments(self) -> list[str]:
        return [one["metadata"]["name"] for one in self.scene.children("Deployment")]

    def _count_engines(self) -> None:
        """Accelerators in use must never be more than the budget, whatever was interrupted."""
        mine = f"{labels.DEPLOYMENT}={self.scene.name},{labels.COMPONENT}={labels.COMPONENT_ENGINE}"
        held = [
            pod["metadata"]["name"]
            for pod in self.scene.kube.pods(self.scene.namespace, mine)
            if pod["status"].get("phase") not in {"Failed", "Succeeded"}
        ]
        assert len(held) <= BUDGET, f"seed {self.seed}: {len(held)} engines, {BUDGET} accelerators: {held}"

    def _check(self) -> None:
        """Nothing is left over."""
        templates = {pod["metadata"]["labels"][labels.TEMPLATE] for pod in self.scene.pods()}
        assert len(templates) == 1, f"seed {self.seed}: engines of {templates}"
        for pod in self.scene.pods():
            assert labels.DRAIN not in pod["metadata"].get("annotations", {}), pod["metadata"]


def _owners(manifest: Manifest) -> set[str]:
    return {owner["uid"] for owner in manifest["metadata"].get("ownerReferences", ())}


def _counts(scene: Scene, dice: random.Random) -> None:
    prefill = dice.randint(1, BUDGET - 1)
    scene.manifest["spec"]["pools"]["prefill"]["minReplicas"] = prefill
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = dice.randint(1, BUDGET - prefill)


def _image(scene: Scene, dice: random.Random) -> None:
    scene.set("spec.engine.image", f"engine:{dice.randint(1, 1000)}")


def _router(scene: Scene, dice: random.Random) -> None:
    scene.set("spec.slo.ttftMilliseconds", dice.randint(100, 5000))
    scene.set("spec.routing.replicas", dice.randint(1, 2))


def _image_and_counts(scene: Scene, dice: random.Random) -> None:
    _image(scene, dice)
    _counts(scene, dice)


def _lost_engine(scene: Scene, dice: random.Random) -> None:
    names = sorted(scene.names())
    if names:
        scene.delete_pod(dice.choice(names), grace_seconds=0)


def _lost_children(scene: Scene, dice: random.Random) -> None:
    for kind, path in (("Service", "/api/v1"), ("Deployment", "/apis/apps/v1")):
        for child in scene.children(kind):
            if dice.random() < 0.5:
                scene.kube.delete(f"{path}/namespaces/{scene.namespace}/{kind.lower()}s/{child['metadata']['name']}")


CHANGES: dict[str, Callable[[Scene, random.Random], None]] = {
    "counts": _counts,
    "image": _image,
    "image and counts": _image_and_counts,
    "lost children": _lost_children,
    "lost engine": _lost_engine,
    "router": _router,
}


def run_seed(kube: Kube, kubeconfig: Path, folder: Path, seed: int, prefork: Prefork | None = None) -> Report:
    """One seed. ``kubeconfig`` is the operator's own. Raises AssertionError when something does not come right."""
    return Seed(kube, kubeconfig, folder, seed, prefork).run()


def allow_lease(kube: Kube, namespace: str) -> None:
    """Let the operator's account keep a lease in another namespace than its own."""
    for manifest in yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text()):
        if manifest["kind"] in {"Role", "RoleBinding"}:
            kube.apply({**manifest, "metadata": {"name": NAME, "namespace": namespace}}, namespace)


def install_rights(bed: TestBed) -> Path:
    """Give the operator's account the rights of the install manifest; its kubeconfig."""
    for manifest in yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text()):
        if manifest["kind"] not in {"CustomResourceDefinition", "Deployment"}:
            bed.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
    return bed.account_kubeconfig(NAMESPACE, NAME)


def main() -> int:
    """Run many seeds on a test bed of its own."""
    from tests.kube.conftest import NODES, install_crd

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=4)
    flags = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bed_folder = folder / "bed"
        bed_folder.mkdir()
        admin = stack.enter_context(api_server(bed_folder))
        assert admin is not None
        assert TestBed.is_one(admin), "needs the test bed"
        kube = stack.enter_context(connect(admin))
        install_crd(kube, ROOT / "crds" / f"{GROUP}_{PLURAL}.yaml", f"/apis/{GROUP}/{VERSION}/{PLURAL}")
        bed = TestBed(admin.parent, kube)
        for node in NODES:
            bed.add_node(node)
        account = install_rights(bed)
        kubelet = Kubelet(admin, folder)
        kubelet.start()
        stack.callback(kubelet.stop)
        prefork = Prefork()
        stack.callback(prefork.close)
        seeds = range(flags.first, flags.first + flags.seeds)
        began, failed, crashes = time.monotonic(), 0, 0
        pool = ThreadPoolExecutor(flags.at_once)
        # Whoever interrupts this does not want the seeds that are left.
        stack.callback(lambda: pool.shutdown(cancel_futures=True))

        def run(seed: int) -> Report:
            # A client of its own: httpx may close an idle connection that another thread has just been given.
            with connect(admin) as own:
                return run_seed(own, account, folder, seed, prefork)

        for seed, future in [(seed, pool.submit(run, seed)) for seed in seeds]:
            try:
                report = future.result()
            except AssertionError as error:
                failed += 1
                print(f"seed {seed} FAILED\n{error}", flush=True)
            else:
                crashes += len(report.crashes)
                print(f"seed {seed}: {report}", flush=True)
        print(
            f"{flags.seeds - failed} of {flags.seeds} seeds came right, {crashes} operators were killed, "
            f"{time.monotonic() - began:.0f} s"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
