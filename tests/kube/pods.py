"""Runs the first container of a pod as a local process, with what a container would get from its pod.

What differs from a container: ``python`` is this interpreter, every server binds to the pod's own loopback address, an
engine is emulated, and the ServiceAccount's folder is one of the test's.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import yaml

from paceline.local.files import replace
from tests.api.documents import ROOT

if TYPE_CHECKING:
    from tests.kube.client import Manifest
    from tests.kube.kubelet import Server

PROBE_SECONDS = 0.2
DEFAULT_PROFILE = "qwen3-32b-h200-tp2"


@dataclass(frozen=True)
class ProcessSettings:
    """How pods of a namespace are run."""

    speed: float = 10.0
    """Of emulated engines, in times of the hardware they stand for."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables of every process."""


class PodProcess:
    """One life of a container."""

    def __init__(self, process: asyncio.subprocess.Process, parent: int, changed: Callable[[], None]) -> None:
        self.ready = False
        self.ended = False
        self._process = process
        self._parent = parent
        self._changed = changed
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls,
        server: Server,
        pod: Manifest,
        address: str,
        settings: ProcessSettings,
        logs: Path,
        changed: Callable[[], None],
    ) -> PodProcess:
        container = pod["spec"]["containers"][0]
        variables = await _variables(server, pod, container, address)
        folder = await _account(server, pod, logs)
        secrets = ProjectedSecrets(server, pod, logs)
        await secrets.renew()
        reading, writing = os.pipe()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PACELINE_", "KUBE"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            "PACELINE_BIND_HOST": address,
            "PACELINE_ENGINE_BACKEND": "emulator",
            "PACELINE_EMULATOR_PROFILE": DEFAULT_PROFILE,
            "PACELINE_EMULATOR_SPEED": repr(settings.speed),
            "PACELINE_PARENT_FD": str(reading),
            **_in_cluster(server, folder),
            **variables,
            **settings.environment,
        }
        log = logs / f"{pod['metadata']['namespace']}.{pod['metadata']['name']}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *_argv(container, address, folder, secrets.folders(container)),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(reading,),
                start_new_session=True,
                cwd=ROOT,
            )
        os.close(reading)
        one = cls(process, writing, changed)
        one._tasks = [
            asyncio.create_task(one._follow_end()),
            asyncio.create_task(one._probe(server.http, _probe_url(container, address))),
            *([asyncio.create_task(secrets.keep())] if secrets else []),
        ]
        return one

    @property
    def exit_code(self) -> int:
        """Of a process that has ended; by a signal: as shells say it."""
        code = self._process.returncode or 0
        return code if code >= 0 else 128 - code

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL for what is left after the grace."""
        if not self.ended:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._process.wait()
        self.kill()
        await self.ends()

    async def ends(self) -> None:
        """Wait until it is gone, and every task with it."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def kill(self) -> None:
        """Kill the process and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _follow_end(self) -> None:
        await self._process.wait()
        self.kill()
        os.close(self._parent)
        self.ended, self.ready = True, False
        for task in self._tasks[1:]:
            task.cancel()
        self._changed()

    async def _probe(self, http: aiohttp.ClientSession, url: str | None) -> None:
        while True:
            ready = url is None or await _answers(http, url)
            if ready != self.ready and not self.ended:
                self.ready = ready
                self._changed()
            await asyncio.sleep(PROBE_SECONDS)


class ProjectedSecrets:
    """Volumes of Secrets, as the kubelet makes and renews them; those that are missing and optional have no files."""

    def __init__(self, server: Server, pod: Manifest, logs: Path) -> None:
        self._server = server
        self._namespace = pod["metadata"]["namespace"]
        self._folders = {
            volume["name"]: (logs / f"volume-{pod['metadata']['uid']}-{volume['name']}", volume["projected"]["sources"])
            for volume in pod["spec"].get("volumes", [])
            if all("secret" in source for source in volume.get("projected", {}).get("sources", [{}]))
        }

    def __bool__(self) -> bool:
        return bool(self._folders)

    def folders(self, container: Manifest) -> dict[str, str]:
        """Where a container's volumes really are, by where it thinks that they are."""
        mounts = container.get("volumeMounts", [])
        return {one["mountPath"]: str(self._folders[one["name"]][0]) for one in mounts if one["name"] in self._folders}

    async def keep(self) -> None:
        """Renew them until cancelled."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                await self.renew()

    async def renew(self) -> None:
        """Write what has changed, each file as a whole."""
        for folder, sources in self._folders.values():
            folder.mkdir(exist_ok=True)
            for source in sources:
                data = await self._data(source["secret"])
                for item in source["secret"]["items"]:
                    _put(folder / item["path"], data.get(item["key"]))

    async def _data(self, source: Manifest) -> dict[str, bytes]:
        path = f"/api/v1/namespaces/{self._namespace}/secrets/{source['name']}"
        try:
            found = await self._server.get(path)
        except aiohttp.ClientResponseError as error:
            if error.status == 404 and source.get("optional"):
                return {}
            raise
        return {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}


def _put(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink(missing_ok=True)
    elif not file.exists() or file.read_bytes() != content:
        replace(file, content)


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url, headers={"Authorization": ""}, timeout=aiohttp.ClientTimeout(total=2)) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _probe_url(container: Manifest, address: str) -> str | None:
    probe = container.get("readinessProbe", {}).get("httpGet")
    if probe is None:
        return None
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    return f"http://{address}:{ports.get(probe['port'], probe['port'])}{probe['path']}"


def _argv(container: Manifest, address: str, folder: Path, mounted: Mapping[str, str]) -> list[str]:
    words = [str(word) for word in (*container.get("command", ()), *container.get("args", ()))]
    argv = [sys.executable if words[0] in {"python", "python3"} else words[0]]
    argv += [address if word == "0.0.0.0" else mounted.get(word, word) for word in words[1:]]
    if "paceline_worker.router" in argv:
        argv += ["--service-account-dir", str(folder)]
    return argv


async def _variables(server: Server, pod: Manifest, container: Manifest, address: str) -> dict[str, str]:
    metadata = pod["metadata"]
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "status.podIP": address,
    }
    found: dict[str, str] = {}
    for entry in container.get("env", []):
        source = entry.get("valueFrom")
        if source is None:
            found[entry["name"]] = entry.get("value", "")
        elif "fieldRef" in source:
            found[entry["name"]] = fields[source["fieldRef"]["fieldPath"]]
        elif "configMapKeyRef" in source:
            reference = source["configMapKeyRef"]
            path = f"/api/v1/namespaces/{metadata['namespace']}/configmaps/{reference['name']}"
            found[entry["name"]] = (await server.get(path))["data"][reference["key"]]
    return found


async def _account(server: Server, pod: Manifest, logs: Path) -> Path:
    """The folder with the credentials of the pod; empty where it asked for none."""
    metadata, spec = pod["metadata"], pod["spec"]
    folder = logs / f"account-{metadata['uid']}"
    folder.mkdir(exist_ok=True)
    if spec.get("automountServiceAccountToken") is False:
        return folder
    path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{spec['serviceAccountName']}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    status, answer = await server.send("POST", path, request)
    assert status == 201, answer
    (folder / "token").write_text(answer["status"]["token"])
    (folder / "ca.crt").write_bytes(server.to.authority)
    (folder / "namespace").write_text(metadata["namespace"])
    (folder / "kubeconfig").write_text(_kubeconfig(server, answer["status"]["token"], folder, metadata["namespace"]))
    return folder


def _kubeconfig(server: Server, token: str, folder: Path, namespace: str) -> str:
    cluster = {"server": server.to.server, "certificate-authority": str(folder / "ca.crt")}
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "pod",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "account", "user": {"token": token}}],
        "contexts": [{"name": "pod", "context": {"cluster": "cluster", "user": "account", "namespace": namespace}}],
    }
    return yaml.safe_dump(document)


def _in_cluster(server: Server, folder: Path) -> dict[str, str]:
    """Where programs find the API server. Libraries look for the token at a fixed path, so they get a kubeconfig."""
    url = urlsplit(server.to.server)
    found = {"KUBERNETES_SERVICE_HOST": url.hostname or "", "KUBERNETES_SERVICE_PORT": str(url.port)}
    if (folder / "kubeconfig").exists():
        found["KUBECONFIG"] = str(folder / "kubeconfig")
    return found
