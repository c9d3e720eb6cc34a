"""Plays the kubelet of all fake nodes: writes the status of their pods, and where it is told to, really runs them.

In a namespace that was given to :meth:`Kubelet.run_processes` the first container of every pod is started as a local
process, bound to the pod's own loopback address, with the environment, the ServiceAccount and the ConfigMaps that a
container would get; its readiness is asked over HTTP as its probe says. Everywhere else a pod is ready at once, unless
its annotations say otherwise:

- ``testbed/hold: "true"``: its containers run and don't get ready
- ``testbed/fail: "true"``: its containers crash over and over
- ``testbed/pull: "fail"``: its image can't be pulled

Unlike the kubelet of the test bed it follows a watch, so thousands of pods cost nothing while nothing happens, and it
writes its own conditions only: those of others, such as readiness gates, can't get lost in between.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from paceline.api import labels
from tests.kube.client import STRATEGIC, Access, Manifest, access
from tests.kube.pods import PodProcess, ProcessSettings

PULSE_SECONDS = 0.1
GOODBYE_SECONDS = 0.5
WRITERS = 16
WORKERS_AT_MOST = 16
OWN_CONDITIONS = ("Initialized", "ContainersReady", "Ready", "PodScheduled")


@dataclass
class Told:
    """When the status of a pod first said so, on the monotonic clock: a moment before it was sent."""

    namespace: str
    deployment: str
    containers_ready: float = 0.0
    ready: float = 0.0


def _networks() -> range:
    """Second octets of the addresses that its pods may have. Runs of the suite beside one another share none."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return range(2, 250)[worker::WORKERS_AT_MOST]


class Kubelet:
    """Runs on a thread of its own, so that tests may block. ``told`` holds a line for each pod, by name."""

    def __init__(self, kubeconfig: Path, logs: Path) -> None:
        self._access = access(kubeconfig)
        self._logs = logs
        self._net = random.choice(_networks())
        self._addresses = 0
        self._processes: dict[str, ProcessSettings] = {}
        self._lives: dict[str, _Life] = {}
        self.told: dict[str, Told] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="kubelet", daemon=True)
        self._task: asyncio.Task[None] | None = None
        self._started = threading.Event()

    def start(self) -> None:
        self._thread.start()
        self._started.wait(30)

    def stop(self) -> None:
        """Stop everything that was started here."""
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(60)

    def run_processes(self, namespace: str, settings: ProcessSettings | None = None) -> None:
        """From now on pods of ``namespace`` are processes."""
        self._processes[namespace] = settings or ProcessSettings()

    def kill(self, namespace: str, pod: str) -> None:
        """Kill the processes of a pod's container, as when it runs out of memory."""
        for life in list(self._lives.values()):
            metadata = life.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, pod) and life.process is not None:
                self._loop.call_soon_threadsafe(life.process.kill)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._run())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        # Connections with TLS say goodbye before they are gone; nothing tells when they have.
        self._loop.run_until_complete(asyncio.sleep(GOODBYE_SECONDS))
        self._loop.close()

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._access.trust, limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=self._access.headers) as http:
            server = Server(http, self._access)
            self._started.set()
            try:
                while True:
                    with suppress(aiohttp.ClientError, TimeoutError, OSError):
                        await self._follow(server)
                    await asyncio.sleep(PULSE_SECONDS)
            finally:
                lives = list(self._lives.values())
                for life in lives:
                    life.task.cancel()
                await asyncio.gather(*(life.task for life in lives), return_exceptions=True)

    async def _follow(self, server: Server) -> None:
        listed = await server.get("/api/v1/pods")
        for uid in self._lives.keys() - {pod["metadata"]["uid"] for pod in listed["items"]}:
            self._lives[uid].gone()
        for pod in listed["items"]:
            self._saw(server, pod)
        async for event in server.watch("/api/v1/pods", listed["metadata"]["resourceVersion"]):
            if event["type"] == "ERROR":
                return
            if event["type"] == "DELETED":
                life = self._lives.get(event["object"]["metadata"]["uid"])
                if life is not None:
                    life.gone()
            elif event["type"] != "BOOKMARK":
                self._saw(server, event["object"])

    def _saw(self, server: Server, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        life = self._lives.get(uid)
        if life is not None:
            life.saw(pod)
        elif pod["spec"].get("nodeName") and pod["status"].get("phase") not in {"Failed", "Succeeded"}:
            settings = self._processes.get(pod["metadata"]["namespace"])
            self._addresses += 1
            address = f"127.{self._net}.{1 + self._addresses // 250}.{1 + self._addresses % 250}"
            told = Told(pod["metadata"]["namespace"], pod["metadata"].get("labels", {}).get(labels.DEPLOYMENT, ""))
            self.told[pod["metadata"]["name"]] = told
            life = _Life(server, pod, pod["status"].get("podIP") or address, settings, self._logs, told)
            self._lives[uid] = life
            life.task = asyncio.create_task(life.run(), name=f"pod {pod['metadata']['name']}")
            life.task.add_done_callback(lambda _: self._lives.pop(uid, None))


@dataclass
class Server:
    """The API server, asked without waiting for one answer before the next question."""

    http: aiohttp.ClientSession
    to: Access
    writers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WRITERS))

    async def get(self, path: str) -> Any:
        async with self.http.get(self.to.server + path) as response:
            response.raise_for_status()
            return await response.json()

    async def send(self, method: str, path: str, body: Any, content_type: str = "application/json") -> tuple[int, Any]:
        headers = {"Content-Type": content_type}
        async with (
            self.writers,
            self.http.request(method, self.to.server + path, data=json.dumps(body), headers=headers) as response,
        ):
            return response.status, await response.json()

    async def watch(self, path: str, version: str) -> Any:
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
        async with self.http.get(self.to.server + path, params=query, timeout=timeout) as response:
            rest = b""
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield json.loads(line)


class _Life:
    """One pod from the moment at which it has a node."""

    task: asyncio.Task[None]

    def __init__(
        self, server: Server, pod: Manifest, address: str, settings: ProcessSettings | None, logs: Path, told: Told
    ) -> None:
        self.pod = pod
        self.process: PodProcess | None = None
        self._server = server
        self._address = address
        self._settings = settings
        self._logs = logs
        self._told = told
        self._started = _now()
        self._restarts = 0
        self._restarting = False
        self._gone = False
        self._news = asyncio.Event()
        self._said: Any = None
        metadata = pod["metadata"]
        self._path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    @property
    def _once(self) -> bool:
        """Whether the pod's end is its end, as that of a test or a job is."""
        return bool(self.pod["spec"].get("restartPolicy") == "Never")

    def saw(self, pod: Manifest) -> None:
        self.pod = pod
        self._news.set()

    def gone(self) -> None:
        self._gone = True
        self._news.set()

    async def run(self) -> None:
        try:
            while not self._gone:
                self._news.clear()
                if self.pod["metadata"].get("deletionTimestamp"):
                    await self._terminate()
                    return
                await self._keep_running()
                await self._tell()
                await self._news.wait()
        finally:
            if self.process is not None:
                self.process.kill()
                await self.process.ends()

    async def _keep_running(self) -> None:
        if self._settings is None:
            return
        if self.process is None:
            try:
                self.process = await PodProcess.start(
                    self._server, self.pod, self._address, self._settings, self._logs, self._news.set
                )
            except (aiohttp.ClientError, TimeoutError, OSError, KeyError):
                # A ConfigMap that is not there yet, or an API server that is away.
                self._wake_after(PULSE_SECONDS * 5)
        elif self.process.ended and not self._restarting and not self._once:
            self._restarting = True
            self._restarts += 1
            asyncio.get_running_loop().call_later(min(5.0, 0.1 * 2.0**self._restarts), self._restart)

    def _restart(self) -> None:
        self._restarting = False
        self.process = None
        self._news.set()

    def _wake_after(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._news.set)

    async def _terminate(self) -> None:
        metadata = self.pod["metadata"]
        if self.process is not None:
            stopping = asyncio.create_task(self.process.stop(metadata.get("deletionGracePeriodSeconds") or 0))
            while not stopping.done() and not self._gone:
                self._news.clear()
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait((stopping, news), return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                await self._tell()
            if self._gone:
                self.process.kill()
            await stopping
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        while not self._gone:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                status, _ = await self._server.send("DELETE", self._path, options)
                if status in {200, 202, 404, 409}:
                    return
            await asyncio.sleep(PULSE_SECONDS)

    async def _tell(self) -> None:
        """Write the status, if it differs from what was written last, or if another has changed it since."""
        saying = self._status()
        if saying == self._said and not self._contradicted(saying):
            return
        stamped = {**saying, "conditions": [self._stamped(one) for one in saying["conditions"]]}
        self._note(saying)
        status = 0
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            status, _ = await self._server.send("PATCH", f"{self._path}/status", {"status": stamped}, STRATEGIC)
        if status == 200:
            self._said = saying
        elif status != 404:
            self._wake_after(PULSE_SECONDS)

    def _contradicted(self, saying: Manifest) -> bool:
        """As by the node controller, which takes the pods of a node that it has not heard of for unready."""
        found = {one["type"]: one["status"] for one in self.pod["status"].get("conditions", [])}
        return any(found.get(one["type"], one["status"]) != one["status"] for one in saying["conditions"])

    def _note(self, saying: Manifest) -> None:
        holds = {one["type"]: one["status"] == "True" for one in saying["conditions"]}
        if holds["ContainersReady"] and not self._told.containers_ready:
            self._told.containers_ready = time.monotonic()
        if holds["Ready"] and not self._told.ready:
            self._told.ready = time.monotonic()

    def _stamped(self, condition: Manifest) -> Manifest:
        before = next((c for c in self.pod["status"].get("conditions", []) if c["type"] == condition["type"]), None)
        same = before is not None and before["status"] == condition["status"]
        since = before["lastTransitionTime"] if before is not None and same else _now()
        reason = None if condition["status"] == "True" else "ContainersNotReady"
        return {**condition, "reason": reason, "lastProbeTime": None, "lastTransitionTime": since}

    def _status(self) -> Manifest:
        annotations = self.pod["metadata"].get("annotations", {})
        state: Manifest = {"running": {"startedAt": self._started}}
        ready = annotations.get("testbed/hold") != "true"
        if annotations.get("testbed/pull") == "fail":
            message = "Back-off pulling image: told to fail"
            state, ready = {"waiting": {"reason": "ImagePullBackOff", "message": message}}, False
        elif self._once and self.process is not None and self.process.ended:
            code = self.process.exit_code
            state, ready = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}, False
        elif annotations.get("testbed/fail") == "true" or (self.process is not None and self.process.ended):
            state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
            ready = False
        elif self._settings is not None:
            ready = ready and self.process is not None and self.process.ready
        present = {one["type"]: one["status"] for one in self.pod["status"].get("conditions", [])}
        gates = [gate["conditionType"] for gate in self.pod["spec"].get("readinessGates", [])]
        open_gates = all(present.get(gate) == "True" for gate in gates)
        holds = {"Initialized": True, "PodScheduled": True, "ContainersReady": ready, "Ready": ready and open_gates}
        restarts = max(self._restarts, 1 if "waiting" in state and annotations.get("testbed/fail") == "true" else 0)
        phase = "Running" if "running" in state or restarts else "Pending"
        if "terminated" in state:
            phase = "Failed" if state["terminated"]["exitCode"] else "Succeeded"
        return {
            "phase": phase,
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "hostIP": "127.0.0.1",
            "startTime": self._started,
            "conditions": [{"type": kind, "status": str(holds[kind])} for kind in OWN_CONDITIONS],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": f"fake://{container['image']}",
                    "containerID": f"fake://{self.pod['metadata']['uid']}/{container['name']}/{restarts}",
                    "ready": ready,
                    "started": "running" in state,
                    "restartCount": restarts,
                    "state": state,
                    "lastState": {},
                }
                for container in self.pod["spec"]["containers"]
            ],
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
