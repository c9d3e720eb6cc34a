"""Finds or starts a real Kubernetes API server for the tests that need one.

In this order: the cluster of ``PACELINE_TEST_KUBECONFIG``; the test bed beside the repository; etcd and kube-apiserver
from the folder ``KUBEBUILDER_ASSETS``; a kind cluster. Whatever is started here is stopped here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.api.documents import ROOT
from tests.processes import free_ports

START_SECONDS = 180
TESTBED = ROOT.parent / "shared" / "kube" / "kube-testbed"
HOW_TO_GET_ONE = (
    "no Kubernetes API server: set PACELINE_TEST_KUBECONFIG to a kubeconfig, or KUBEBUILDER_ASSETS to a folder with "
    "etcd and kube-apiserver (setup-envtest makes one), or install kind with a container engine"
)


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[Path | None]:
    """Path of a kubeconfig, or None where this machine has no way to an API server. ``folder`` is for its files."""
    given = os.environ.get("PACELINE_TEST_KUBECONFIG")
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if given:
        yield Path(given)
    elif TESTBED.is_file() and shutil.which("openssl"):
        with _testbed(folder) as kubeconfig:
            yield kubeconfig
    elif assets:
        with _binaries(Path(assets), folder) as kubeconfig:
            yield kubeconfig
    elif shutil.which("kind") and any(map(shutil.which, ("docker", "podman", "nerdctl"))):
        with _kind(folder) as kubeconfig:
            yield kubeconfig
    else:
        yield None


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}\n{done.stderr}")


@contextlib.contextmanager
def _testbed(folder: Path) -> Iterator[Path]:
    def command(*words: str) -> None:
        _run(sys.executable, TESTBED, *words, "--dir", folder)

    try:
        command("up")
        yield folder / "kubeconfig"
    finally:
        command("down", "--purge")


@contextlib.contextmanager
def _kind(folder: Path) -> Iterator[Path]:
    name, kubeconfig = f"paceline-{os.getpid()}", folder / "kubeconfig"
    try:
        _run("kind", "create", "cluster", "--name", name, "--kubeconfig", kubeconfig, "--wait", f"{START_SECONDS}s")
        yield kubeconfig
    finally:
        _run("kind", "delete", "cluster", "--name", name, "--kubeconfig", kubeconfig)


@contextlib.contextmanager
def _binaries(assets: Path, folder: Path) -> Iterator[Path]:
    etcd_port, peer_port, port = free_ports(3)
    token, signing_key = "admin-of-the-tests", folder / "sa.key"
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    _run("openssl", "genrsa", "-out", signing_key, "2048")
    kubeconfig = _write_kubeconfig(folder / "kubeconfig", f"https://127.0.0.1:{port}", token)
    etcd_url, peer_url = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    with (
        _process(
            folder / "etcd.log",
            [
                str(assets / "etcd"),
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={etcd_url}",
                f"--advertise-client-urls={etcd_url}",
                f"--listen-peer-urls={peer_url}",
                f"--initial-advertise-peer-urls={peer_url}",
                f"--initial-cluster=default={peer_url}",
            ],
        ),
        _process(
            folder / "apiserver.log",
            [
                str(assets / "kube-apiserver"),
                f"--etcd-servers={etcd_url}",
                f"--secure-port={port}",
                "--bind-address=127.0.0.1",
                f"--cert-dir={folder / 'certs'}",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={signing_key}",
                f"--service-account-signing-key-file={signing_key}",
            ],
        ) as server,
    ):
        _wait_until_listening(port, server, folder / "apiserver.log")
        yield kubeconfig


def _write_kubeconfig(path: Path, server: str, token: str) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                # The server makes its own certificate at start; it listens on loopback only.
                "clusters": [{"name": "test", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
                "users": [{"name": "admin", "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            }
        )
    )
    return path


@contextlib.contextmanager
def _process(log: Path, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"nothing listens on port {port}:\n{log.read_text()[-2000:]}")
