"""The shape of the repository: what a newcomer and the packaging both rely on."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TOP_LEVEL = {
    "pyproject.toml", "operator", "worker", "crds", "helm", "manifests", "tests", "docs", "README.md",
    "Makefile", "LICENSE", "CHANGELOG.md", "requirements.lock",
}  # fmt: skip


def tracked_files() -> list[str]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listing.stdout.split("\0") if name]


def test_the_source_root_operator_does_not_shadow_the_standard_library() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    imported = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.add(1, 1))"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert imported.stdout.strip() == "2"


def test_the_top_level_holds_only_what_is_fixed() -> None:
    visible = {name.split("/")[0] for name in tracked_files()}
    assert {name for name in visible if not name.startswith(".")} <= TOP_LEVEL


def test_the_lock_pins_every_package_by_hash_and_names_no_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    requirements = re.split(r"\n(?=\S)", lock.strip())
    assert len(requirements) > 40
    for requirement in requirements:
        assert re.match(r"^[a-z0-9._-]+==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
    assert "://" not in lock
    assert "--index-url" not in lock


@pytest.mark.parametrize("package", ["torch", "vllm", "nixl"])
def test_the_lock_holds_nothing_of_the_gpu_image(package: str) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(rf"^{package}==", lock, re.MULTILINE)


def test_modules_stay_small_enough_to_have_one_reason() -> None:
    long = {
        name: lines
        for name in tracked_files()
        if name.endswith(".py") and name.startswith(("operator/", "worker/"))
        and (lines := (ROOT / name).read_text().count("\n")) > 400
    }  # fmt: skip
    assert not long


def test_only_task_roots_catch_everything() -> None:
    """A broad except passes the error on after cleaning up, or is a root's last resort and says so on its line."""
    found = []
    for name in tracked_files():
        if not (name.endswith(".py") and name.startswith(("operator/", "worker/"))):
            continue
        source = (ROOT / name).read_text()
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if broad and not passes_on and "root of " not in lines[node.lineno - 1]:
                found.append(f"{name}:{node.lineno}")
    assert not found
