"""How far the performance model is from latencies measured on real GPUs, by family, without looking at the answers.

    python -m tests.bench.perfmodel_report [--write docs/reference/perfmodel.md] [--factors] [--check FILE]

The data are benchmark results: so many clients, each sending its next request when the last is answered, give one mean
TTFT and one mean TPOT. :func:`tpot_row` and :func:`ttft_row` say what the engine model predicts for that, linear in the
factors by which an engine misses the peaks of its data sheet (``policy/scaling/physics.py``). The factors are fitted
with ``policy/scaling/fit.py`` in levels, each drawn towards the one above: all engines, those of one kind, a family
(model, GPU, engine, precision, mode), a layout within it.

Cross-validation, twice. *Unseen layout*: all rows of a layout (whatever the engine's version) are predicted from
other layouts; of a family with up to ten layouts exactly one is left out at a time. *Unseen point*: a tenth of the
operating points of each layout is predicted from the rest. Rows that repeat a measurement are taken once, so none is on
both sides.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from paceline.policy.quantiles import interpolated
from paceline.policy.scaling.fit import fit_nonnegative
from paceline.policy.scaling.physics import PREFILL_TERMS, STEP_TERMS
from tests.bench.perfmodel_rows import Row, read_rows

DATA = Path(os.environ.get("PACELINE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
FOLDS = 10
BURSTS = 20
"""All clients start at once and send ten requests each: a tenth of the requests waits for half of the others."""
HOST_SECONDS = 0.02
"""Unit of what a request costs before and after the engine: HTTP, tokenising, scheduling."""
LEVELS: Sequence[Callable[[Row], Hashable]] = (
    lambda row: row.mode,
    lambda row: row.kind,
    lambda row: (row.mode, row.model, row.backend),
    lambda row: row.family,
    lambda row: row.layout,
)
PRIOR_WEIGHTS = (10.0, 3.0, 0.5, 0.5, 0.3)
"""In points: how firmly each level is held by the one above."""

PREFILL_PRIOR = (1.5, 1.7, 1.5, 1.2, 0.5, 0.5, 1.0)
STEP_PRIOR = (1.2, 1.2, 1.15, 1.0, 1.5, 1.0, 1.0, 0.5)
"""Where all factors begin: engines reach 60 to 90% of the peaks that they are built around. The measured prompts are
too short to tell attention from the rest; without this, long prompts would be extrapolated by the errors of short ones.
"""
TPOT_PRIOR = (*STEP_PRIOR, *PREFILL_PRIOR)
TTFT_PRIOR = (*PREFILL_PRIOR, *PREFILL_PRIOR, 1.0, 1.0, 1.0)

Factors = list[dict[Hashable, tuple[float, ...]]]


def tpot_row(row: Row) -> tuple[float, ...]:
    """Terms of the time per output token: a step of the batch, and, where the same engine computes prompts, its share
    of one prompt for each answer of each sequence.
    """
    batch = row.running
    step = row.decode.step_terms(batch, batch * (row.prompt + row.output / 2))
    prefill = row.prefill.prefill_terms(row.prompt)
    share = batch / row.output if row.mode == "agg" else 0.0
    return (*step, *(share * term for term in prefill))


def ttft_row(row: Row, tpot: float) -> tuple[float, ...]:
    """Terms of the time to the first token: the prompt itself, those that all clients sent at the start, a step in
    progress, host work, and a free place in the batch if there are more clients than places. ``tpot`` is predicted.
    """
    prefill = row.prefill.prefill_terms(row.prompt)
    ahead = row.clients / row.prefill_workers / row.prefill.layout.data / BURSTS
    over = max(0.0, row.clients / row.decode_workers - row.running)
    return (*prefill, *(ahead * term for term in prefill), HOST_SECONDS, tpot, over * row.output * tpot / row.running)


def fit_levels(
    rows: Sequence[Row], terms: Sequence[Sequence[float]], targets: Sequence[float], prior: tuple[float, ...]
) -> Factors:
    """Factors of every group of every level."""
    found: Factors = []
    for level, key in enumerate(LEVELS):
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            groups[key(row)].append(index)
        here: dict[Hashable, tuple[float, ...]] = {}
        for name, members in groups.items():
            above = found[-1][LEVELS[level - 1](rows[members[0]])] if level else prior
            here[name] = fit_nonnegative(
                [terms[i] for i in members],
                [targets[i] for i in members],
                prior=[max(factor, 0.02 * start) for factor, start in zip(above, prior, strict=True)],
                prior_weight=PRIOR_WEIGHTS[level],
            ).coefficients
        found.append(here)
    return found


def predict(factors: Factors, row: Row, terms: Sequence[float]) -> float:
    """With the finest factors there are."""
    best: tuple[float, ...] = (1.0,) * len(terms)
    for level, key in enumerate(LEVELS):
        best = factors[level].get(key(row), best)
    return math.fsum(a * b for a, b in zip(best, terms, strict=True))


def fit_both(rows: Sequence[Row]) -> tuple[Factors, Factors]:
    """Factors of TPOT and, with its predictions, of TTFT."""
    steps = [tpot_row(row) for row in rows]
    tpot = fit_levels(rows, steps, [row.tpot for row in rows], TPOT_PRIOR)
    firsts = [ttft_row(row, predict(tpot, row, terms)) for row, terms in zip(rows, steps, strict=True)]
    return tpot, fit_levels(rows, firsts, [row.ttft for row in rows], TTFT_PRIOR)


def predict_both(factors: tuple[Factors, Factors], row: Row) -> tuple[float, float]:
    """(TTFT, TPOT) in seconds."""
    tpot = predict(factors[0], row, tpot_row(row))
    return predict(factors[1], row, ttft_row(row, tpot)), tpot


def cross_validate(rows: Sequence[Row], held_out: Callable[[Row], Hashable]) -> list[tuple[float, float]]:
    """(TTFT, TPOT) of each row, predicted without any row of the same ``held_out``."""
    fold_of: dict[Hashable, int] = {}
    seen: dict[Hashable, int] = defaultdict(int)
    for row in sorted(rows, key=lambda row: repr(held_out(row))):
        key = held_out(row)
        if key not in fold_of:
            fold_of[key] = seen[row.family] % FOLDS
            seen[row.family] += 1
    found: list[tuple[float, float]] = [(math.nan, math.nan)] * len(rows)
    for fold in range(FOLDS):
        factors = fit_both([row for row in rows if fold_of[held_out(row)] != fold])
        for index, row in enumerate(rows):
            if fold_of[held_out(row)] == fold:
                found[index] = predict_both(factors, row)
    return found


def spread_of_repetitions(rows: Sequence[Row], measured: Callable[[Row], float]) -> tuple[int, float]:
    """(points measured more than once, median of how far a repetition under the same labels is from their mean)."""
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for row in rows:
        groups[row.point].append(measured(row))
    repeated = [values for values in groups.values() if len(values) > 1]
    errors = [abs(value / (sum(values) / len(values)) - 1) for values in repeated for value in values]
    return len(repeated), interpolated(errors, 0.5)


SECTIONS: Mapping[str, Callable[[Row], bool]] = {
    "one engine does both, vLLM": lambda row: row.mode == "agg" and row.backend == "vllm",
    "one engine does both, all": lambda row: row.mode == "agg",
    "the same without DeepSeek": lambda row: row.mode == "agg" and not row.model.startswith("DeepSeek"),
    "DeepSeek, one engine does both": lambda row: row.mode == "agg" and row.model.startswith("DeepSeek"),
    "apart, number of workers known": lambda row: row.mode == "disagg" and row.workers_known,
    "apart, number of workers unknown": lambda row: row.mode == "disagg" and not row.workers_known,
}
AIMS = {"TTFT": 0.20, "TPOT": 0.10}
LEAST_ROWS = 8
"""Of a family that is judged by itself, in at least two layouts."""

Predictions = list[tuple[float, float]]
_MEASURED: Mapping[str, Callable[[Row], float]] = {"TTFT": lambda row: row.ttft, "TPOT": lambda row: row.tpot}


def errors_of(rows: Sequence[Row], found: Predictions, chosen: Iterable[int], what: str) -> list[float]:
    """Absolute relative errors."""
    place, measured = list(AIMS).index(what), _MEASURED[what]
    return [abs(found[i][place] / measured(rows[i]) - 1) for i in chosen]


def report(rows: Sequence[Row], layouts: Predictions, points: Predictions) -> Iterable[str]:
    """The page, line by line."""
    families = {row.family for row in rows}
    yield "# The performance model against measured latencies"
    yield ""
    yield (
        "Written by `python -m tests.bench.perfmodel_report --write docs/reference/perfmodel.md`; the head of that "
        "file says how. Errors are |predicted / measured − 1|, median and 90th percentile."
    )
    yield ""
    yield (
        f"Data: {len(rows):,} distinct measurements on real GPUs of {len(families)} families (model, GPU, engine, "
        f"precision, mode) in {len({row.layout for row in rows})} layouts; vLLM, SGLang and TensorRT-LLM on H100, "
        "H200, B200, B300, GB200 and GB300 (from the aiconfigurator repository, Apache-2.0). *Unseen layout* predicts "
        "a layout from the other layouts of its family and from other families; *unseen point* predicts loads that "
        "were not measured in a layout from those that were, which is what a calibration gives."
    )
    yield ""
    yield "| | rows | TTFT, unseen layout | TPOT, unseen layout | TTFT, unseen point | TPOT, unseen point |"
    yield "|---|---|---|---|---|---|"
    for title, belongs in SECTIONS.items():
        yield _line(title, rows, layouts, points, [i for i, row in enumerate(rows) if belongs(row)])
    yield ""
    yield "Families with at least 8 rows and 2 layouts whose median error is within the aim:"
    yield ""
    columns = [f"{what} within {100 * AIMS[what]:.0f}%, unseen {kind}" for kind in ("layout", "point") for what in AIMS]
    yield f"| | {' | '.join(columns)} |"
    yield "|---|---|---|---|---|"
    for title in list(SECTIONS)[:3] + list(SECTIONS)[4:]:
        yield _within(title, rows, layouts, points)
    yield ""
    yield "## By model and engine, one engine does both"
    yield ""
    yield "| | rows | TTFT, unseen layout | TPOT, unseen layout | TTFT, unseen point | TPOT, unseen point |"
    yield "|---|---|---|---|---|---|"
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.mode == "agg":
            groups[f"{row.model}, {row.backend}"].append(index)
    for title, chosen in sorted(groups.items()):
        yield _line(title, rows, layouts, points, chosen)
    yield ""
    yield "## What bounds the rest"
    yield ""
    for title in ("the same without DeepSeek", "DeepSeek, one engine does both", "apart, number of workers unknown"):
        chosen_rows = [row for row in rows if SECTIONS[title](row)]
        count, ttft = spread_of_repetitions(chosen_rows, _MEASURED["TTFT"])
        _, tpot = spread_of_repetitions(chosen_rows, _MEASURED["TPOT"])
        yield (
            f"- {title}: {count} points were measured more than once with every label equal; half of the "
            f"repetitions are further than {100 * ttft:.0f}% (TTFT) and {100 * tpot:.0f}% (TPOT) from their mean, "
            "which no model that knows only the labels can predict."
        )
    full = [i for i, row in enumerate(rows) if row.mode == "agg" and row.clients > 1.001 * row.running]
    rest = [i for i, row in enumerate(rows) if row.mode == "agg" and row.clients <= 1.001 * row.running]
    yield (
        f"- More clients than the KV cache holds ({len(full)} rows of engines that do both): the wait for a place "
        "depends on memory settings that the data don't name. TTFT, unseen layout: "
        f"{_two(errors_of(rows, layouts, full, 'TTFT'))}, against {_two(errors_of(rows, layouts, rest, 'TTFT'))} of "
        "the others."
    )
    yield (
        "- DeepSeek rows don't say whether the engine speculated. Under equal labels some have half of the TPOT of "
        "others, as multi-token prediction would give; that this is the cause is a guess."
    )
    yield (
        "- Rows with prefill and decode apart mostly don't say how many workers of each there were, on which both "
        "latencies depend. Where they do, TPOT is as good as elsewhere; TTFT depends on how the clients start."
    )


def _two(errors: Sequence[float]) -> str:
    return f"{100 * interpolated(errors, 0.5):.1f}% / {100 * interpolated(errors, 0.9):.0f}%"


def _line(title: str, rows: Sequence[Row], layouts: Predictions, points: Predictions, chosen: Sequence[int]) -> str:
    cells = [_two(errors_of(rows, found, chosen, what)) for found in (layouts, points) for what in AIMS]
    return f"| {title} | {len(chosen)} | {' | '.join(cells)} |"


def _within(title: str, rows: Sequence[Row], layouts: Predictions, points: Predictions) -> str:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if SECTIONS[title](row):
            groups[row.family].append(index)
    judged = [
        chosen for chosen in groups.values() if len(chosen) >= LEAST_ROWS and len({rows[i].layout for i in chosen}) > 1
    ]
    cells = []
    for found in (layouts, points):
        for what, aim in AIMS.items():
            good = sum(interpolated(errors_of(rows, found, chosen, what), 0.5) <= aim for chosen in judged)
            cells.append(f"{good} of {len(judged)}")
    return f"| {title} | {' | '.join(cells)} |"


def factors(rows: Sequence[Row]) -> Iterable[str]:
    """``FACTORS`` of ``policy/scaling/estimate.py``: those of vLLM, by kind of model and weights."""
    tpot, ttft = fit_both(rows)
    steps, firsts = len(STEP_TERMS), len(PREFILL_TERMS)
    for experts in (False, True):
        for sixteen in (True, False):
            kind = ("agg", "vllm", experts, sixteen)
            if kind not in tpot[1]:
                yield f"    # {experts=}, {sixteen=}: no rows"
                continue
            yield f"    ({experts}, {sixteen}): Factors("
            yield f"        prefill=({', '.join(f'{factor:.3g}' for factor in ttft[1][kind][:firsts])}),"
            yield f"        step=({', '.join(f'{factor:.3g}' for factor in tpot[1][kind][:steps])}),"
            yield "    ),"


def check(rows: Sequence[Row], others: Sequence[Row]) -> Iterable[str]:
    """Errors on rows that were never looked at."""
    fitted = fit_both(rows)
    found = [predict_both(fitted, row) for row in others]
    seen = {row.layout for row in rows}
    for title, belongs in SECTIONS.items():
        for layouts, inside in (("known layouts", True), ("new layouts", False)):
            chosen = [i for i, row in enumerate(others) if belongs(row) and (row.layout in seen) is inside]
            if chosen:
                cells = [f"{what} {_two(errors_of(others, found, chosen, what))}" for what in AIMS]
                yield f"{title}, {layouts}: {len(chosen)} rows, {', '.join(cells)}"


def main(arguments: Sequence[str]) -> None:
    """Print the report, or write it; or print the factors."""
    parser = argparse.ArgumentParser(description="Errors of the performance model on measured latencies.")
    parser.add_argument("--write", type=Path, help="write the report to this file instead of printing it")
    parser.add_argument("--factors", action="store_true", help="print the factors of estimates instead of a report")
    parser.add_argument(
        "--check", type=Path, help="predict the rows of this file from those of the data, and say how well"
    )
    options = parser.parse_args(arguments)
    known = read_rows(DATA / "perf" / "measured_latency.csv.gz")
    rows = list(known.values())
    if options.check:
        print("\n".join(check(rows, [row for key, row in read_rows(options.check).items() if key not in known])))
        return
    if options.factors:
        print("\n".join(factors(rows)))
        return
    layouts = cross_validate(rows, lambda row: row.layout)
    points = cross_validate(rows, lambda row: row.point)
    text = "\n".join(report(rows, layouts, points)) + "\n"
    if options.write:
        options.write.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
