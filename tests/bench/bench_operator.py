"""The operator with many deployments on a real API server: how long until all are as wanted, what it costs when nothing
happens, and how soon a router knows of an engine that has got ready.

Run: ``python -m tests.bench.bench_operator --sizes 50,500``. Pods are made ready by the tests' kubelet; nothing runs
in them. The controllers and the scheduler of the test bed are Kubernetes' own with their own limits (20 writes a second
for each controller), so the time to converge is mostly theirs; how far behind them the operator is, is given apart.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from paceline.api import labels, wire
from paceline.api.labels import GROUP, PLURAL, VERSION
from paceline.api.v1alpha1 import from_manifest
from paceline.policy.resources.access import router_access
from paceline.policy.resources.router import engine_selector
from paceline_worker.router.fleet_kubernetes import KubernetesFleet
from paceline_worker.router.pod_api import PodApi, PodSelection
from tests.api.documents import ROOT
from tests.kube.client import Kube, Manifest, access, condition, connect, model_path, until
from tests.kube.cluster import api_server
from tests.kube.conftest import install_crd
from tests.kube.kill_anywhere import install_rights
from tests.kube.kubelet import Kubelet
from tests.kube.operators import Operator, running
from tests.kube.scene import small
from tests.kube.testbed import TestBed
from tests.processes import cpu_seconds, rss_bytes

PER_NAMESPACE = 25
ENGINES = 8
RESYNC_SECONDS = 60
FOLLOWED = 5
NEWS_SECONDS = 180
"""A bound on hanging, not on speed."""
VERBS = ("get", "list", "watch", "create", "apply", "patch", "update", "delete")
WRITES = ("create", "apply", "patch", "update", "delete")


def name_of(number: int) -> tuple[str, str]:
    """Namespace and name of a deployment."""
    return f"bench-{number // PER_NAMESPACE}", f"model-{number:03d}"


def manifest_of(number: int) -> Manifest:
    namespace, name = name_of(number)
    manifest = small(name)
    manifest["metadata"]["namespace"] = namespace
    for role in ("prefill", "decode"):
        pool = manifest["spec"]["pools"][role]
        pool.update(minReplicas=ENGINES // 2, maxReplicas=ENGINES)
    return manifest


@dataclass
class Usage:
    """What a process has used so far."""

    cpu_seconds: float
    rss_mib: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        return cls(cpu_seconds(pid), rss_bytes(pid) / 2**20)


class Requests:
    """Requests of the operator to the API server, but for those that keep the lease."""

    def __init__(self, operator: Operator) -> None:
        self.by_verb = {
            verb: operator.metric("paceline_operator_api_requests_total", verb=verb)
            - operator.metric("paceline_operator_api_requests_total", verb=verb, resource="leases.coordination.k8s.io")
            for verb in VERBS
        }
        self.passes = operator.metric("paceline_operator_reconciles_total")

    def since(self, before: Requests) -> dict[str, float]:
        found = {verb: self.by_verb[verb] - before.by_verb[verb] for verb in VERBS}
        return {verb: count for verb, count in found.items() if count}


class Watcher:
    """Notes when each deployment turned Ready, on a thread of its own."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self.ready: dict[tuple[str, str], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        path = f"/apis/{GROUP}/{VERSION}/{PLURAL}"
        version = self._kube.ok("GET", path)["metadata"]["resourceVersion"]
        while not self._stop.is_set():
            query = {"watch": "true", "resourceVersion": version}
            with contextlib.suppress(httpx.TransportError):
                version = self._follow(path, query)

    def _follow(self, path: str, query: dict[str, str]) -> str:
        version = query["resourceVersion"]
        with self._kube.http.stream("GET", path, params=query, timeout=httpx.Timeout(5, read=30)) as answer:
            for line in answer.iter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return str(self._kube.ok("GET", path)["metadata"]["resourceVersion"])
                resource = event["object"]
                version = resource["metadata"]["resourceVersion"]
                if condition(resource, "Ready").get("status") == "True":
                    key = resource["metadata"]["namespace"], resource["metadata"]["name"]
                    self.ready.setdefault(key, time.monotonic())
                if self._stop.is_set():
                    break
        return version


class Followers:
    """Fleet sources as they run in routers, on one thread; they note when an engine is usable."""

    def __init__(self, selections: list[PodSelection]) -> None:
        self.usable: dict[str, float] = {}
        self._selections = selections
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._task: asyncio.Task[Any] | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._run())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    async def _run(self) -> None:
        sources = [KubernetesFleet(PodApi(one), self._apply, lambda _: None, random.random) for one in self._selections]
        try:
            await asyncio.gather(*(source.follow() for source in sources))
        finally:
            for source in sources:
                await source.close()

    def _apply(self, fleet: wire.Fleet) -> None:
        now = time.monotonic()
        for engine in fleet.engines:
            if engine.state is wire.EngineState.READY:
                self.usable.setdefault(engine.name, now)


@contextlib.contextmanager
def cluster(folder: Path, nodes: int) -> Iterator[tuple[TestBed, Kube, Path]]:
    """A test bed of its own, with rights for the operator; its account's kubeconfig."""
    bed_folder = folder / "bed"
    bed_folder.mkdir()
    with api_server(bed_folder) as admin:
        assert admin is not None
        assert TestBed.is_one(admin), "needs the test bed"
        with connect(admin) as kube:
            install_crd(kube, ROOT / "crds" / f"{GROUP}_{PLURAL}.yaml", f"/apis/{GROUP}/{VERSION}/{PLURAL}")
            bed = TestBed(admin.parent, kube)
            for number in range(nodes):
                bed.add_node(f"node-{number}")
            yield bed, kube, install_rights(bed)


def grow(kube: Kube, operator: Operator, kubelet: Kubelet, watcher: Watcher, first: int, last: int) -> dict[str, float]:
    """Apply deployments ``first`` to ``last`` and wait until all are Ready."""
    keys = [name_of(number) for number in range(first, last)]
    for namespace in sorted({namespace for namespace, _ in keys}):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        kube.request("POST", "/api/v1/namespaces", body)
    before, asked, began = Usage.of(operator.process.pid), Requests(operator), time.monotonic()
    for number in range(first, last):
        manifest = manifest_of(number)
        kube.ok("POST", model_path(manifest["metadata"]["namespace"]), manifest)
    applied = time.monotonic() - began
    until(
        f"{last - first} more deployments are Ready",
        lambda: all(key in watcher.ready for key in keys),
        seconds=60 + 3 * (last - first),
        trouble=lambda: f"{sum(key in watcher.ready for key in keys)} are; {operator.tail(5)}",
    )
    spent = Usage.of(operator.process.pid)
    requests = Requests(operator).since(asked)
    count = last - first
    last_pod = dict.fromkeys(keys, 0.0)
    for told in list(kubelet.told.values()):
        key = (told.namespace, told.deployment)
        if key in last_pod:
            last_pod[key] = max(last_pod[key], told.ready)
    lags = sorted(watcher.ready[key] - last_pod[key] for key in keys)
    return {
        "deployments": last,
        "added": count,
        "applied s": applied,
        "converged s": max(watcher.ready[key] for key in keys) - began,
        "behind the last pod p50 s": lags[len(lags) // 2],
        "behind the last pod p99 s": lags[int(len(lags) * 0.99)],
        "operator CPU s": spent.cpu_seconds - before.cpu_seconds,
        "operator CPU ms per deployment": 1000 * (spent.cpu_seconds - before.cpu_seconds) / count,
        "operator RSS MiB": spent.rss_mib,
        "requests per deployment": sum(requests.values()) / count,
        "writes per deployment": sum(requests.get(verb, 0) for verb in WRITES) / count,
    }


def rest(operator: Operator, deployments: int, seconds: float) -> dict[str, float]:
    """What the operator does while nothing happens."""
    before, asked, began = Usage.of(operator.process.pid), Requests(operator), time.monotonic()
    time.sleep(seconds)
    now, requests, minutes = Usage.of(operator.process.pid), Requests(operator), (time.monotonic() - began) / 60
    found = requests.since(asked)
    passes = requests.passes - asked.passes
    return {
        "deployments": deployments,
        "passes per deployment": passes / deployments,
        "writes": sum(found.get(verb, 0) for verb in WRITES),
        "reads per deployment and minute": sum(found.get(verb, 0) for verb in ("get", "list", "watch"))
        / deployments
        / minutes,
        "operator CPU %": 100 * (now.cpu_seconds - before.cpu_seconds) / (60 * minutes),
        "CPU ms per pass": 1000 * (now.cpu_seconds - before.cpu_seconds) / max(1, passes),
        "operator RSS MiB": now.rss_mib,
    }


def news(kube: Kube, bed: TestBed, kubelet: Kubelet, deployments: int, samples: int, folder: Path) -> dict[str, float]:
    """Time from an engine's containers being ready, and from its pod being Ready, until a router may send it work."""
    dice = random.Random(deployments)
    chosen = dice.sample(range(deployments), FOLLOWED)
    followers = Followers([selection(bed, kube, number, folder) for number in chosen])
    followers.start()
    try:
        total: list[float] = []
        last: list[float] = []
        until("the routers know their engines", lambda: len(followers.usable) >= FOLLOWED * ENGINES)
        for _ in range(samples):
            namespace, name = name_of(dice.choice(chosen))
            selector = f"{labels.DEPLOYMENT}={name},{labels.COMPONENT}={labels.COMPONENT_ENGINE}"
            known = set(followers.usable)
            victim = dice.choice([pod["metadata"]["name"] for pod in kube.pods(namespace, selector)])
            kube.delete(f"/api/v1/namespaces/{namespace}/pods/{victim}", gracePeriodSeconds=0)
            (fresh,) = until(
                f"a new engine in the place of {victim} of {name}, number {len(total)}",
                lambda seen=known: followers.usable.keys() - seen,  # type: ignore[misc]
                seconds=NEWS_SECONDS,
                trouble=lambda at=(namespace, selector): [  # type: ignore[misc]
                    (
                        pod["metadata"]["name"],
                        pod["metadata"]["labels"].get(labels.ROLE),
                        pod["status"].get("conditions"),
                    )
                    for pod in kube.pods(*at)
                ],
            )
            told = kubelet.told[fresh]
            total.append(followers.usable[fresh] - told.containers_ready)
            last.append(followers.usable[fresh] - told.ready)
    finally:
        followers.stop()
    return {
        "deployments": deployments,
        "samples": samples,
        **quantiles("containers ready to router", total),
        **quantiles("pod Ready to router", last),
    }


def quantiles(what: str, seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum in milliseconds."""
    ordered = sorted(1000 * value for value in seconds)
    at = {"p50": statistics.median(ordered), "p99": ordered[int(len(ordered) * 0.99)], "max": ordered[-1]}
    return {f"{what} {name} ms": value for name, value in at.items()}


def selection(bed: TestBed, kube: Kube, number: int, folder: Path) -> PodSelection:
    """What the router of a deployment watches, as its own ServiceAccount."""
    md = from_manifest(manifest_of(number), "bench")
    namespace, _ = name_of(number)
    account = router_access(md).service_account["metadata"]["name"]
    config = yaml.safe_load(bed.account_kubeconfig(namespace, account).read_text())
    own = folder / f"account-{number}"
    own.mkdir(exist_ok=True)
    (own / "token").write_text(config["users"][0]["user"]["token"])
    (own / "ca.crt").write_bytes(access(bed.kubeconfig).authority)
    return PodSelection(config["clusters"][0]["cluster"]["server"], namespace, engine_selector(md), own)


def show(title: str, rows: list[dict[str, float]]) -> None:
    """A table with one column a size."""
    print(f"\n{title}")
    for key in rows[0]:
        print(f"  {key:42}" + "".join(f"{row[key]:>12,.1f}" for row in rows))
    sys.stdout.flush()


def main() -> int:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="50,500", help="deployments at which to stop and measure")
    parser.add_argument("--rest-seconds", type=float, default=90)
    parser.add_argument("--samples", type=int, default=100, help="engines that are replaced one by one")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    flags = parser.parse_args()
    sizes = [int(size) for size in flags.sizes.split(",")]
    found: dict[str, list[dict[str, float]]] = {"growth": [], "rest": [], "news": []}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        nodes = 1 + (sizes[-1] * (ENGINES + 1)) // 900
        bed, kube, account = stack.enter_context(cluster(folder, nodes))
        kubelet = Kubelet(bed.kubeconfig, folder)
        kubelet.start()
        stack.callback(kubelet.stop)
        # A client of its own: httpx may close an idle connection that another thread has just been given.
        watcher = Watcher(stack.enter_context(connect(bed.kubeconfig)))
        watcher.start()
        stack.callback(watcher.stop)
        resync = ("--resync-seconds", str(RESYNC_SECONDS))
        operator = stack.enter_context(running(account, folder / "operator.log", *resync))
        for before, size in zip([0, *sizes], sizes, strict=False):
            found["growth"].append(grow(kube, operator, kubelet, watcher, before, size))
            show("Until all are as wanted", found["growth"])
            found["rest"].append(rest(operator, size, flags.rest_seconds))
            show("While nothing happens", found["rest"])
            found["news"].append(news(kube, bed, kubelet, size, flags.samples, folder))
            show("An engine gets ready", found["news"])
    if flags.out:
        flags.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
