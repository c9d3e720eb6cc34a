"""Runs helm on the chart. ``python -m tests.helm.charts`` prints ``manifests/install.yaml``."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.programs import ROOT, helm

CHART = ROOT / "helm" / "paceline"
NAMESPACE = "paceline-system"
RELEASE = "paceline"
NAME = "paceline-operator"
"""Of everything that the chart makes for that release."""
REPLICAS = 2
HELM_SECONDS = 180
HEADER = (
    "# Rendered from helm/paceline with manifests/install.values.yaml (`make generate`); do not edit.\n"
    "#   kubectl apply --server-side -f manifests/install.yaml\n"
)

Manifest = dict[str, Any]


def run_helm(
    *words: str | Path, kubeconfig: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run helm with folders of its own, so that nothing of the user's matters."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "PATH": os.environ["PATH"], "HELM_NO_PLUGINS": "1"}
        if kubeconfig is not None:
            environment["KUBECONFIG"] = str(kubeconfig)
        done = subprocess.run(
            [helm(), *words],
            env=environment, capture_output=True, text=True, timeout=HELM_SECONDS, check=False, cwd=ROOT,
        )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(f"helm {' '.join(map(str, words))}:\n{done.stdout}\n{done.stderr}")
    return done


def flags(values: Mapping[str, Any]) -> list[str]:
    """``--set`` flags for dotted names; JSON, so that types are what they look like in Python."""
    return [word for name, value in values.items() for word in ("--set-json", f"{name}={json.dumps(value)}")]


def template(
    values: Mapping[str, Any] | None = None,
    *,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    words: tuple[str, ...] = (),
) -> list[Manifest]:
    """Objects of the chart without a cluster."""
    return copy.deepcopy(_rendered(release, namespace, (*flags(values or {}), *words)))


@functools.cache
def _rendered(release: str, namespace: str, words: tuple[str, ...]) -> list[Manifest]:
    done = run_helm("template", release, CHART, "--namespace", namespace, *words)
    # libyaml: the CRD takes the pure parser a second.
    return [one for one in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if one]


def refusal(values: Mapping[str, Any]) -> str:
    """What helm says to values that it does not take."""
    done = run_helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *flags(values), check=False)
    assert done.returncode != 0, f"{values} were taken"
    return done.stderr


def install_manifest() -> str:
    """``manifests/install.yaml``."""
    done = run_helm(
        "template",
        RELEASE,
        CHART,
        "--namespace",
        NAMESPACE,
        "--skip-tests",
        "--values",
        "manifests/install.values.yaml",
    )
    return HEADER + done.stdout


if __name__ == "__main__":
    sys.stdout.write(install_manifest())
