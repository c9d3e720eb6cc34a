"""Measured points in files: what ``paceline calibrate`` reads, and writes after it has measured an endpoint.

CSV with a header, or one JSON object a line, with the same names:

- ``kind`` is ``prefill`` or ``step``, ``milliseconds`` what was measured;
- a prefill has ``new_tokens``, and ``cached_tokens`` if there were any;
- a decode step has ``sequences``, and ``context_tokens`` of all of them together.

Unlike a trace, a calibration is small and made on purpose, so a bad row is an error and not a gap.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from paceline.errors import ConfigError
from paceline.policy.scaling.fit import PrefillPoint, StepPoint

MAX_BYTES: Final = 64 << 20
SHOWN_PROBLEMS: Final = 5
COLUMNS: Final = ("kind", "new_tokens", "cached_tokens", "sequences", "context_tokens", "milliseconds")


@dataclass(frozen=True, slots=True)
class Points:
    """Everything that was measured of one engine."""

    prefills: tuple[PrefillPoint, ...]
    steps: tuple[StepPoint, ...]


def read_points(path: Path) -> Points:
    """Read a file. Raises ConfigError that names the first bad rows by their line."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: can't read the points: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text.") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; a calibration needs some dozens of rows.")
    prefills, steps, problems = [], [], []
    for line, row in _rows(text, path):
        try:
            point = _point(row)
        except ValueError as error:
            problems.append(f"line {line}: {error}")
            continue
        if isinstance(point, PrefillPoint):
            prefills.append(point)
        else:
            steps.append(point)
    if problems:
        shown = "\n  ".join(problems[:SHOWN_PROBLEMS])
        raise ConfigError(f"{path}: {len(problems)} rows can't be used:\n  {shown}")
    if not prefills and not steps:
        raise ConfigError(f"{path}: holds no points. Its columns are {', '.join(COLUMNS)}.")
    return Points(tuple(prefills), tuple(steps))


def csv_of(points: Points) -> str:
    """The file of these points."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for new, cached, seconds in points.prefills:
        writer.writerow(["prefill", new, cached, "", "", f"{1000 * seconds:.6g}"])
    for sequences, context, seconds in points.steps:
        writer.writerow(["step", "", "", f"{sequences:g}", f"{context:.10g}", f"{1000 * seconds:.6g}"])
    return out.getvalue()


def _rows(text: str, path: Path) -> Iterable[tuple[int, Mapping[str, object]]]:
    lines = text.splitlines()
    if not lines:
        return
    if lines[0].lstrip().startswith("{"):
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield number, row if isinstance(row, dict) else {"kind": "not a JSON object"}
        return
    header = [name.strip().lower() for name in next(csv.reader(lines[:1]))]
    if "kind" not in header or "milliseconds" not in header:
        raise ConfigError(f"{path}: its header has no columns kind and milliseconds. Known: {', '.join(COLUMNS)}.")
    for number, values in enumerate(csv.reader(lines[1:]), start=2):
        if values:
            yield number, dict(zip(header, values, strict=False))


def _point(row: Mapping[str, object]) -> PrefillPoint | StepPoint:
    kind = row.get("kind")
    seconds = _number(row, "milliseconds", least=0.0, above=True) / 1000
    if kind == "prefill":
        new = _number(row, "new_tokens", least=1)
        return PrefillPoint(round(new), round(_number(row, "cached_tokens", least=0, default=0.0)), seconds)
    if kind == "step":
        return StepPoint(_number(row, "sequences", least=1), _number(row, "context_tokens", least=0), seconds)
    raise ValueError(f"kind must be prefill or step, not {str(kind)[:40]!r}")


def _number(
    row: Mapping[str, object], name: str, *, least: float, above: bool = False, default: float | None = None
) -> float:
    value = row.get(name)
    if value in (None, "") and default is not None:
        return default
    try:
        number = float(str(value))
    except ValueError:
        raise ValueError(f"{name} must be a number, not {str(value)[:40]!r}") from None
    if not math.isfinite(number) or number < least or (above and number == least):
        raise ValueError(f"{name} must be {'above' if above else 'at least'} {least:g}, not {number:g}")
    return number
