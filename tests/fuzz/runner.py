"""Runs fuzz targets: so many inputs, from a seed, each with a limit of time; keeps the first input of each failure."""

from __future__ import annotations

import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from tests.fuzz.target import Found, Target

LONGEST_SECONDS: Final = 20
"""An input that takes longer hangs. Generous: machines are shared."""
MAX_KEPT: Final = 50
"""Different failures of one target; there is no point in more."""


@dataclass
class Failure:
    """One way to fail, with the input that showed it first."""

    where: str
    text: str
    data: bytes
    count: int = 1


@dataclass
class Result:
    """Of one target."""

    name: str
    inputs: int = 0
    seconds: float = 0.0
    failures: dict[str, Failure] = field(default_factory=dict)


def shares(targets: Sequence[type[Target]], inputs: int) -> dict[str, int]:
    """How many inputs each target gets, at least one each."""
    total = sum(target.share for target in targets)
    return {target.name: max(1, round(inputs * target.share / total)) for target in targets}


def run(target: Target, inputs: int, seed: str, *, tick: Callable[[Result], None] = lambda _: None) -> Result:
    """Feed ``inputs`` inputs; ``tick`` hears of it about once a second."""
    rng = random.Random(f"{seed}/{target.name}")
    result = Result(target.name)
    began = last = time.monotonic()
    for _ in range(inputs):
        data = target.make(rng)
        result.inputs += 1
        failure = attempt(lambda data=data: target.check(data), data)
        if failure is not None:
            _keep(result, failure)
        now = time.monotonic()
        if now - last > 1:
            last, result.seconds = now, now - began
            tick(result)
    failure = attempt(target.finish, b"")
    if failure is not None:
        _keep(result, failure)
    result.seconds = time.monotonic() - began
    return result


def attempt(act: Callable[[], None], data: bytes) -> Failure | None:
    """What is wrong with it; None when it went well."""
    try:
        with _limited():
            act()
    except Exception as error:  # noqa: BLE001 - whatever it is, it was found
        # Two failures are the same one if they were raised at the same place.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = str(error) if isinstance(error, Found) else ""
        where = f"{type(error).__name__} {what} at {Path(frame.filename).name}:{frame.lineno}"
        return Failure(where, "".join(traceback.format_exception(error)), data)
    return None


def save(result: Result, folder: Path) -> list[Path]:
    """Write each failure's input and traceback. Returns the inputs' paths."""
    paths = []
    for number, failure in enumerate(result.failures.values()):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{result.name}-{number}.bin"
        path.write_bytes(failure.data)
        path.with_suffix(".txt").write_text(f"{failure.count} times\n{failure.text}")
        paths.append(path)
    return paths


def _keep(result: Result, failure: Failure) -> None:
    known = result.failures.get(failure.where)
    if known is not None:
        known.count += 1
    elif len(result.failures) < MAX_KEPT:
        result.failures[failure.where] = failure


@contextmanager
def _limited() -> Iterator[None]:
    """A signal, for what hangs may never come back to an event loop."""

    def late(_: int, __: FrameType | None) -> None:
        raise Found(f"hung for {LONGEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
