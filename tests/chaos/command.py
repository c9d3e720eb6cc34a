"""What the long forms of the cases have in common on the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, Protocol

import uvloop


class Case(Protocol):
    """Runs a load under one fault."""

    def __call__(
        self, folder: Path, case: str, *, seconds: float, streams: int, seed: int, speed: float
    ) -> Coroutine[Any, Any, dict[str, object]]:
        """What became of the streams."""
        ...


def parser(doc: str | None, *, seconds: float, streams: int, speed: float) -> argparse.ArgumentParser:
    """Flags with these defaults."""
    flags = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    flags.add_argument("--seconds", type=float, default=seconds)
    flags.add_argument("--streams", type=int, default=streams)
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--speed", type=float, default=speed, help="of the engines; 1: as the profile says")
    flags.add_argument("--out", type=Path, default=Path("out/chaos"))
    return flags


def run_case(doc: str | None, cases: Iterable[str], broken: Case) -> int:
    """The command of a module with several cases: parse arguments, run one, report it."""
    flags = parser(doc, seconds=30.0, streams=100, speed=0.2)
    flags.add_argument("case", choices=list(cases))
    given = flags.parse_args()
    return report(
        broken(
            given.out / given.case, given.case, seconds=given.seconds, streams=given.streams, seed=given.seed,
            speed=given.speed,
        )
    )  # fmt: skip


def report(case: Coroutine[Any, Any, dict[str, object]]) -> int:
    """Run a case, print what came of it. Returns the exit status: 1 when a client saw a failure."""
    outcome = uvloop.run(case)
    print(json.dumps(outcome, indent=2))
    return 1 if outcome["failed"] else 0
