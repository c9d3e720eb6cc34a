"""Runs promtool: checks of metrics and rules, and tests of rules against series that are written down."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.programs import ROOT, promtool

RULES = ROOT / "helm" / "paceline" / "files" / "rules.yaml"
PROMTOOL_SECONDS = 120


def check_metrics(page: str) -> str:
    """What promtool has to say against a page of metrics; empty where it has nothing."""
    done = subprocess.run(
        [promtool(), "check", "metrics"],
        input=page, capture_output=True, text=True, timeout=PROMTOOL_SECONDS, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def check_rules() -> str:
    """What promtool says of the rules file."""
    done = subprocess.run(
        [promtool(), "check", "rules", RULES], capture_output=True, text=True, timeout=PROMTOOL_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def unit(
    series: Mapping[str, str], checks: Sequence[tuple[str, str, float | None]], *, interval: str = "1m"
) -> dict[str, Any]:
    """One test for :func:`run_rule_tests`: series with a sample an interval; of each check time, expression and sum."""
    return {
        "interval": interval,
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"sum({expression})",
                "eval_time": at,
                "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
            }
            for at, expression, value in checks
        ],
    }


def run_rule_tests(*units: dict[str, Any], every: str = "1m") -> subprocess.CompletedProcess[str]:
    """promtool's own verdict on all of them.

    Groups are looked at in the order of the file: promtool's own is another each time, and where looks are further
    apart than five minutes an alert that comes before what it goes by sees nothing.
    """
    order = [group["name"] for group in yaml.safe_load(RULES.read_text())["groups"]]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tests.yaml"
        file.write_text(
            yaml.safe_dump(
                {
                    "rule_files": [str(RULES)],
                    "evaluation_interval": every,
                    "group_eval_order": order,
                    "tests": list(units),
                }
            )
        )
        return subprocess.run(
            [promtool(), "test", "rules", file], capture_output=True, text=True, timeout=PROMTOOL_SECONDS, check=False
        )
