"""Draws the README's picture of a role change: ``python -m tests.docs.pictures docs/concepts/img``.

The load of `make demo` against its manifest, in virtual time, so that the picture shows the policy and not the machine
that it was drawn on.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from paceline.cli import run
from paceline.traces.recording import write_recording
from paceline.traces.shift import generate_shift

SECONDS = 360.0


def draw(folder: Path) -> int:
    """Write ``role-change.png`` into ``folder``; the exit code of `paceline simulate`."""
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "shift.jsonl"
        write_recording(generate_shift(seconds=SECONDS, rng=random.Random(0)), trace)
        return run(
            [
                "simulate", "manifests/samples/elastic.yaml", "--trace", str(trace), "--trace-format", "paceline",
                "--policy", "static-best,planner", "--plot", str(folder / "role-change.png"),
            ]
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(draw(Path(sys.argv[1])))
