"""The container images, as far as that goes without a container engine: what is in them, and how they are written."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from paceline import __version__
from paceline.policy.resources import Images
from tests.programs import ROOT, hadolint

FOLDER = ROOT / "manifests" / "images"
NAMES = ("operator", "router", "worker", "emulator")
STARTED = {
    "operator": ["paceline.cli", "paceline.controller.operator", "paceline.controller.check"],
    "router": ["paceline_worker.router.__main__", "paceline_worker.router.app"],
    "emulator": [
        "paceline_worker.engine.__main__",
        "paceline_worker.engine.worker",
        "paceline_worker.emulator.__main__",
    ],
}
"""What each image has to be able to import."""
IMPORTS_WITH_NOTHING_ELSE = """
import importlib, re, sys
from importlib import abc, metadata
allowed = set(sys.argv[1].split(",")) | {"paceline", "editables"}
owners = metadata.packages_distributions()

class OnlyAllowed(abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        owned = {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners.get(name.partition(".")[0], ())}
        if owned and not owned & allowed:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, OnlyAllowed())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def load_make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("images_make", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stages(name: str) -> str:
    """The stages of the Dockerfile that end in an image: its own, and those that it stands on."""
    text = (FOLDER / "Dockerfile").read_text()
    found = {part.split(" AS ")[1].split("\n")[0]: part for part in re.split(r"(?m)^FROM ", text)[1:]}
    base, own = found[name].split(" AS ")[0], found[name]
    return (stages(base) if base in found else "") + own


def built(name: str) -> str:
    """All stages that the build of an image runs."""
    mine = stages(name)
    return mine + "".join(built(stage) for stage in dict.fromkeys(re.findall(r"--from=(\S+)", mine)))


def requirements(name: str) -> Path:
    """What is installed into an image."""
    (found,) = re.findall(r"COPY (manifests/images/\w+/requirements\.txt)", built(name))
    return ROOT / str(found)


def packages(name: str) -> set[str]:
    return set(re.findall(r"(?m)^([a-z0-9.-]+)==", requirements(name).read_text()))


def test_requirements_and_bills_are_what_the_lock_gives() -> None:
    for path, content in load_make().files().items():
        assert (ROOT / path).read_text() == content, "run `python manifests/images/make.py`"


@pytest.mark.programs
def test_hadolint_has_nothing_to_complain_of() -> None:
    done = subprocess.run(
        [hadolint(), "--no-fail", "--format", "json", FOLDER / "Dockerfile"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert [(one["code"], one["line"], one["message"]) for one in json.loads(done.stdout)] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_image_runs_as_a_numbered_user_and_says_what_it_is(name: str) -> None:
    text = stages(name)
    assert re.findall(r"(?m)^USER (.*)$", text) == ["65532:65532"]
    assert "ADD " not in built(name)
    assert "latest" not in built(name)
    for label in ("title", "version", "revision", "licenses"):
        assert text.count(f"org.opencontainers.image.{label}=") == 1
    assert f"ARG VERSION={__version__}" in text
    assert f"manifests/images/{name}/sbom.cdx.json" in text
    assert text.count("\nCMD [") == 1


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_is_there_and_reaches_the_build(name: str) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", built(name)):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == allowed or source.startswith(f"{allowed}/") for allowed in sent), source


@pytest.mark.parametrize("name", STARTED)
def test_it_starts_with_nothing_but_the_packages_of_the_image(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_WITH_NOTHING_ELSE, ",".join(packages(name)), *STARTED[name]],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_package_that_the_image_lacks_would_be_missed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_WITH_NOTHING_ELSE, "click", "aiohttp"],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert "aiohttp is not in the image" in done.stderr


def test_the_front_door_carries_no_part_of_the_control_plane_and_nobody_carries_development() -> None:
    assert {"kopf", "kubernetes", "matplotlib", "numpy"} & packages("router") == set()
    for name in STARTED:
        assert {"pytest", "mypy", "ruff", "hypothesis", "vllm", "torch"} & packages(name) == set()


@pytest.mark.parametrize("name", STARTED)
def test_every_package_is_pinned_by_hash(name: str) -> None:
    for entry in re.split(r"\n(?=\S)", requirements(name).read_text().strip()):
        assert re.match(r"[a-z0-9.-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


@pytest.mark.parametrize("name", NAMES)
def test_the_bill_of_materials_lists_what_is_installed(name: str) -> None:
    bill = json.loads((FOLDER / name / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["component"]["version"] == __version__
    assert {component["name"] for component in bill["components"]} == packages(name)
    references = {component["bom-ref"] for component in bill["components"]}
    assert set(bill["dependencies"][0]["dependsOn"]) == references


def test_images_are_those_that_the_operator_starts() -> None:
    made = {f"ghcr.io/paceline/{name}:{__version__}" for name in NAMES}
    assert {Images().engine, Images().router} <= made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """What the images install, made by the step of their Dockerfile."""
    folder: Path = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, capture_output=True, timeout=100, check=True, cwd=ROOT)
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_has_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "operator", "worker"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    inside = set(wheel.namelist())
    assert {name.partition("/")[2] for name in tracked} <= inside
    assert "paceline_worker/router/live/static/live.js" in inside
    assert not any(name.startswith("operator/") or "/tests/" in name for name in inside)
