"""The test bed beside the repository as an object: a real API server with controllers, scheduler and fake GPU nodes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.api.documents import ROOT
from tests.kube.client import Kube, until

PROGRAM = ROOT.parent / "shared" / "kube" / "kube-testbed"
COMMAND_SECONDS = 120
STEADY_ANSWERS = 50
"""At ten a second."""
NEEDED = "needs the controllers and fake nodes of the test bed; a bare API server does not have them"
GPUS_PER_NODE = 1000
PODS_PER_NODE = "1000"
PRODUCT = "NVIDIA-H200"


class TestBed:
    """One running instance in ``folder``."""

    __test__ = False

    def __init__(self, folder: Path, kube: Kube) -> None:
        self.folder = folder
        self.kube = kube
        self.kubeconfig = folder / "kubeconfig"

    @staticmethod
    def is_one(kubeconfig: Path) -> bool:
        """Whether that API server is an instance of the test bed."""
        return PROGRAM.is_file() and (kubeconfig.parent / ".kube-testbed").is_file()

    def command(self, *words: str) -> str:
        """Run the test bed's own program."""
        done = subprocess.run(
            [sys.executable, PROGRAM, *words, "--dir", self.folder],
            capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def restart(self, daemon: str) -> None:
        """Restart one daemon; its data stay."""
        self.command("restart", daemon)

    @contextmanager
    def away(self, daemon: str) -> Iterator[None]:
        """One daemon answers nobody, and its connections stay open: the worst way of being away."""
        pid = int((self.folder / f"{daemon}.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def until_steady(self, path: str) -> None:
        """Wait until the custom resource at ``path`` has been served for a while.

        A server that has just been restarted answers 404 for custom resources for some seconds, and may answer 200
        before that.
        """
        answers: deque[bool] = deque(maxlen=STEADY_ANSWERS)

        def steady() -> bool:
            try:
                answers.append(self.kube.request("GET", path)[0] == 200)
            except httpx.TransportError:
                answers.append(False)
            return len(answers) == STEADY_ANSWERS and all(answers)

        until("custom resources are served steadily", steady, seconds=90)

    def account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with the rights of a ServiceAccount."""
        line = self.command("sa-kubeconfig", namespace, name).strip().splitlines()[-1]
        return Path(line.removeprefix("KUBECONFIG="))

    def kubectl(
        self, *words: str, kubeconfig: Path | None = None, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl."""
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run(
                [self._binary("kubectl"), "--cache-dir", cache, *words],
                input=stdin,
                env={"KUBECONFIG": str(kubeconfig or self.kubeconfig), "HOME": cache, "PATH": os.environ["PATH"]},
                capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False, cwd=ROOT,
            )  # fmt: skip
        assert done.returncode == 0 or not check, f"kubectl {' '.join(words)}:\n{done.stdout}\n{done.stderr}"
        return done

    def add_node(self, name: str, *, gpus: int = GPUS_PER_NODE, product: str = PRODUCT) -> None:
        """A fake node with room for many pods."""
        size = ("--cpu", "4000", "--memory", "64Ti")
        words = ("add-node", name, "--gpus", str(gpus), "--gpu-product", product, *size)
        try:
            self.command(*words)
        except AssertionError as error:
            # The test bed's kubelet may renew the node's lease just before add-node makes it.
            if "already exists" not in str(error):
                raise
            self.command(*words)
        path = f"/api/v1/nodes/{name}/status"
        room: dict[str, Any] = {"pods": PODS_PER_NODE}
        body = {"status": {"capacity": room, "allocatable": room}}
        self.kube.ok("PATCH", path, body, content_type="application/merge-patch+json")

    def _binary(self, name: str) -> str:
        for line in self.command("env").splitlines():
            if line.startswith("export PATH="):
                found = shutil.which(name, path=line.removeprefix("export PATH=").partition(":")[0])
                assert found, f"no {name} in {line}"
                return found
        raise AssertionError("the test bed does not say where its programs are")
