"""Settings of the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
NEED_PROGRAMS = (HERE / "helm", HERE / "observability")
"""Folders whose tests run programs that Python packages do not bring."""

# No test fails on an absolute time: machines are shared. In CI the same examples run every time, so that a change is
# judged by what it changed; everywhere else new examples are looked for.
settings.register_profile(
    "paceline",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("paceline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs more than Python, or minutes: the default run is to work wherever Python does, and soon."""
    for item in items:
        if HERE / "chaos" in item.path.parents:
            item.add_marker(pytest.mark.chaos)
        if any(folder in item.path.parents for folder in NEED_PROGRAMS):
            item.add_marker(pytest.mark.programs)
