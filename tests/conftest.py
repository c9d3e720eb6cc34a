"""Settings of the whole suite."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No test fails on an absolute time: machines are shared. In CI the same examples run every time, so that a change is
# judged by what it changed; everywhere else new examples are looked for.
settings.register_profile(
    "paceline",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("paceline")
