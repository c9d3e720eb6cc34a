"""Several policies on one workload, with a progress display for whoever waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.progress import Progress

from paceline.errors import ConfigError
from paceline.simulator.settings import SimSettings
from paceline.simulator.simulation import Run
from paceline.simulator.tuning import POLICIES, best_run
from paceline.simulator.workload import Workload

ALL: Final = "all"


def policy_names(text: str) -> tuple[str, ...]:
    """Split ``NAME[,NAME...]``. Raises ConfigError for a name that is not known or given twice."""
    if text.strip() == ALL:
        return POLICIES
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in POLICIES:
            raise ConfigError(f"--policy: {name!r} is not known. Known policies: {', '.join(POLICIES)}, or {ALL}.")
    if len(set(names)) < len(names):
        raise ConfigError(f"--policy: {text} names a policy twice.")
    return names


def compare(names: Sequence[str], workload: Workload, settings: SimSettings, console: Console) -> list[Run]:
    """The best run of each policy, in the order asked for."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def show(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        return [best_run(name, workload, settings, progress=show) for name in names]
