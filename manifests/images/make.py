"""What goes into each image: ``python manifests/images/make.py`` writes requirements and bills of materials.

``requirements.lock`` holds what development needs too. An image gets the part that its extra asks for, worked out from
the metadata of the packages that are installed here, with the versions and hashes of the lock. Tests compare.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("manifests/images")
IMAGES = {"operator": ("operator",), "router": ("router",)}
"""Extras of ``pyproject.toml`` by image. The worker stands on vLLM's own image."""
ALIKE = {"router": ("emulator",)}
"""Images with the packages of another one."""
BUILD = ("hatchling",)
PLATFORM = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "python_version": "3.11",
    "python_full_version": "3.11.13",
}
NIXL = "nixl==1.5.1\n"


def normal(name: str) -> str:
    """A package's name as the lock spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Entries of the lock by package, hashes and all."""
    text = (ROOT / "requirements.lock").read_text()
    return {normal(re.split(r"[=\s\[]", entry, maxsplit=1)[0]): entry for entry in re.split(r"\n(?=\S)", text.strip())}


def closure(requirements: list[str]) -> list[str]:
    """Names of all packages that ``requirements`` need on the images' platform."""
    found: dict[tuple[str, str], None] = {}
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({**PLATFORM, "extra": extra}):
            continue
        name = normal(requirement.name)
        for wanted in ("", *sorted(requirement.extras)):
            if (name, wanted) not in found:
                found[name, wanted] = None
                waiting += [(Requirement(text), wanted) for text in metadata.requires(name) or ()]
    return sorted({name for name, _ in found})


def project() -> dict[str, Any]:
    """The project's table in pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def pinned(names: list[str]) -> str:
    """Those entries of the lock."""
    lock = locked()
    return "".join(f"{lock[name].rstrip()}\n" for name in names)


def bill(image: str, requirements: str) -> str:
    """CycloneDX 1.5. No serial number and no time: the same packages are the same bytes."""
    version = project()["version"]
    components = []
    for entry in re.split(r"\n(?=\S)", requirements.strip()):
        found = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", entry)
        if found is None:
            continue
        name, pin = found.groups()
        purl = f"pkg:pypi/{normal(name)}@{pin}"
        components.append({"type": "library", "bom-ref": purl, "name": name, "version": pin, "purl": purl})
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container", "bom-ref": f"paceline-{image}",
                "name": f"ghcr.io/paceline/{image}", "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": f"paceline-{image}", "dependsOn": [component["bom-ref"] for component in components]}
        ],
    }  # fmt: skip
    return json.dumps(document, indent=1) + "\n"


def files() -> dict[str, str]:
    """Contents by path below the root."""
    table = project()
    made = {str(FOLDER / "build-requirements.txt"): pinned(closure(list(BUILD)))}
    for image, extras in IMAGES.items():
        wanted = [*table["dependencies"], *(text for extra in extras for text in table["optional-dependencies"][extra])]
        requirements = pinned(closure(wanted))
        made[str(FOLDER / image / "requirements.txt")] = requirements
        for alike in (image, *ALIKE.get(image, ())):
            made[str(FOLDER / alike / "sbom.cdx.json")] = bill(alike, requirements)
    made[str(FOLDER / "worker/requirements.txt")] = NIXL
    made[str(FOLDER / "worker/sbom.cdx.json")] = bill("worker", NIXL)
    return made


if __name__ == "__main__":
    for path, content in files().items():
        (ROOT / path).write_text(content)
    sys.stdout.write(f"wrote {len(files())} files\n")
