"""``python -m tests.fuzz --inputs 1000000 --seed S``: feeds every target its share, shows progress and a table.

Exit status 1 where something was found; the inputs that showed it are kept, and ``--again FILE`` feeds one once more.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.runner import Result, attempt, run, save, shares
from tests.fuzz.targets import TARGETS


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=50_000, help="in all, over the targets")
    parser.add_argument("--seed", default="0", help="the same seed makes the same inputs")
    parser.add_argument("--only", action="append", choices=sorted(TARGETS), help="this target; may be repeated")
    parser.add_argument("--again", type=Path, help="feed one kept input to the target that --only names")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder for inputs that showed something")
    flags = parser.parse_args(arguments)
    logging.disable(logging.INFO)
    # What is refused is logged, a line each: that is not for this terminal.
    logging.getLogger().addHandler(logging.NullHandler())
    if flags.again is not None:
        return _again(flags.again, flags.only or parser.error("--again needs --only TARGET"))
    chosen = flags.only or list(TARGETS)
    counts = shares([TARGETS[name] for name in chosen], flags.inputs)
    results, found = [], []
    print(f"{'target':<20} {'inputs':>9} {'seconds':>8} {'inputs/s':>9} {'failures':>9}", flush=True)
    for name in chosen:
        results.append(run(TARGETS[name](), counts[name], flags.seed, tick=_progress(counts[name])))
        sys.stderr.write("\r\033[K" if sys.stderr.isatty() else "")
        _line(results[-1])
        found += save(results[-1], flags.out)
    total = sum(result.inputs for result in results)
    took = sum(result.seconds for result in results)
    print(f"{'all':<20} {total:>9} {took:>8.1f} {total / max(took, 1e-9):>9.0f} {len(found):>9}")
    for path in found:
        print(f"  {path}: {path.with_suffix('.txt').read_text().strip().splitlines()[-1][:160]}")
    return 1 if found else 0


def _again(path: Path, names: list[str]) -> int:
    target = TARGETS[names[0]]()
    data = path.read_bytes()
    failure = attempt(lambda: target.check(data), data)
    print(failure.text if failure is not None else "nothing")
    attempt(target.finish, b"")
    return 1 if failure is not None else 0


def _progress(inputs: int) -> Callable[[Result], None]:
    began = time.monotonic()

    def tick(result: Result) -> None:
        if sys.stderr.isatty():
            rate = result.inputs / (time.monotonic() - began)
            sys.stderr.write(f"\r{result.name:<20} {result.inputs:>9} of {inputs}, {rate:.0f}/s\033[K")
            sys.stderr.flush()

    return tick


def _line(result: Result) -> None:
    rate = result.inputs / max(result.seconds, 1e-9)
    print(
        f"{result.name:<20} {result.inputs:>9} {result.seconds:>8.1f} {rate:>9.0f} {len(result.failures):>9}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
