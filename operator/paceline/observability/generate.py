"""The files that are made from this package: their places in the repository and their contents."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from paceline.observability.catalogue import load_catalogue
from paceline.observability.dashboards import DASHBOARDS, render_dashboard
from paceline.observability.reference import render_reference
from paceline.observability.rules import render_rules, rule_groups

CHART: Final = "helm/paceline"


def generated_files() -> dict[str, str]:
    """Contents by path."""
    return {
        f"{CHART}/files/rules.yaml": render_rules(),
        "docs/reference/metrics.md": render_reference(load_catalogue(), rule_groups()),
        **{f"{CHART}/dashboards/{name}.json": render_dashboard(name) for name in DASHBOARDS},
    }


def write_all(root: Path) -> None:
    """Write them below ``root``."""
    for path, content in generated_files().items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, "utf-8")
