"""The pictures of docs/concepts/scaling.md, from the conversation trace.

python -m tests.bench.scaling_pictures docs/concepts/img
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from paceline.api.v1alpha1 import load
from paceline.policy.scaling.decode_sizing import DecodeDemand, batch_size
from paceline.policy.scaling.prefill_sizing import (
    PrefillArrival,
    PrefillObjective,
    closed_form_engines,
    replay,
    replay_engines,
)
from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.plot import BLUE, INK, ORANGE, VERMILION, draw
from paceline.simulator.policies.base import MeanSteps
from paceline.simulator.scenario import settings_of
from paceline.simulator.shapes import SHAPES
from paceline.simulator.tuning import best_run
from paceline.simulator.workload import Workload
from paceline.traces.formats import read_trace

DATA = Path(os.environ.get("PACELINE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
TRACE = DATA / "traces" / "mooncake_conversation_trace.jsonl.gz"
PROFILE = get_profile("qwen3-32b-h200-tp2")
TTFT = 2.0
MANIFEST = """
apiVersion: paceline.dev/v1alpha1
kind: ModelDeployment
metadata: {name: pictures}
spec:
  model: {name: Qwen/Qwen3-32B}
  engine: {parallelism: {tensor: 2}}
  slo: {ttftMilliseconds: 2000, itlMilliseconds: 25}
  pools:
    prefill: {maxReplicas: 12, accelerator: {product: NVIDIA-H200, count: 2}}
    decode: {maxReplicas: 12, accelerator: {product: NVIDIA-H200, count: 2}}
"""


def demand(folder: Path) -> None:
    """Requests against work: the mean hides who does the damage."""
    prompts, _ = _workload().sizes()
    times = np.sort([PROFILE.prefill_seconds(int(prompt)) for prompt in prompts])
    share = np.arange(1, len(times) + 1) / len(times)
    work = np.cumsum(times) / times.sum()

    def paint(axes: Axes) -> None:
        axes.plot(times, 100 * share, color=BLUE, lw=2, label="of the requests")
        axes.plot(times, 100 * work, color=ORANGE, lw=2, ls="--", label="of the prefill work")
        axes.axvline(float(times.mean()), color=INK, lw=1)
        axes.annotate("mean", (float(times.mean()), 3), xytext=(4, 0), textcoords="offset points", fontsize=9)
        axes.axvline(TTFT, color=VERMILION, lw=1.2, ls=":")
        axes.annotate("objective", (TTFT, 3), xytext=(4, 0), textcoords="offset points", fontsize=9, color=VERMILION)
        axes.set_xscale("log")
        axes.set_xlabel("prefill time of a request, s")
        axes.set_ylabel("% that take at most this long")
        axes.legend(frameon=False, loc="upper left")

    _picture(folder / "demand.png", paint)
    late = times > TTFT
    print(f"mean prefill {times.mean():.2f} s, squared coefficient of variation {times.var() / times.mean() ** 2:.1f}")
    work_late = times[late].sum() / times.sum()
    print(f"{100 * late.mean():.1f}% of the requests take over {TTFT:g} s, {100 * work_late:.0f}% of the work")


def prefill(folder: Path) -> None:
    """How many prefill engines: what three ways of asking say, and what would have happened."""
    workload = _workload()
    prompts, _ = workload.sizes()
    arrivals = [
        PrefillArrival(float(at), PROFILE.prefill_seconds(int(prompt)))
        for at, prompt in zip(workload.arrivals, prompts, strict=True)
    ]
    objective = PrefillObjective(ttft_seconds=TTFT, transfer_seconds=0.05)
    services = [arrival.service_seconds for arrival in arrivals]
    gaps = np.diff(workload.arrivals)
    rate = len(arrivals) / workload.seconds
    mean = max(1, math.ceil(rate * sum(services) / len(services)))
    formula = closed_form_engines(services, rate, float(gaps.var() / gaps.mean() ** 2), objective, at_most=64)
    found = replay_engines(arrivals, objective, guess=formula, at_most=64).engines
    counts = list(range(1, found + 4))
    shares = [100 * replay(arrivals, count, objective).attainment for count in counts]

    def paint(axes: Axes) -> None:
        axes.plot(counts, shares, color=BLUE, marker="o", lw=1.5)
        axes.axhline(95, color=VERMILION, lw=1.2, ls=":")
        for count, name, height in ((mean, "by the mean", 20), (formula, "by formula", 45), (found, "by replay", 70)):
            axes.axvline(count, color=INK, lw=0.8, ls="--")
            axes.annotate(name, (count, height), xytext=(4, 0), textcoords="offset points", fontsize=9)
        axes.set_ylim(0, 103)
        axes.set_xlabel("prefill engines")
        axes.set_ylabel("% of feasible requests in time")

    _picture(folder / "prefill.png", paint)
    print(f"by the mean {mean}, by formula {formula}, by replay {found}; attained {[round(share) for share in shares]}")


def decode(folder: Path) -> None:
    """The fixed point of a decode engine: faster tokens need smaller batches, smaller batches more engines."""
    prompts, outputs = _workload().sizes()
    seconds = _workload().seconds
    wanted = DecodeDemand(
        request_rate=8 * len(prompts) / seconds,
        output_tokens=float(outputs.mean()),
        context_tokens=float(((prompts + outputs / 2) * outputs).sum() / outputs.sum()),
    )
    model = MeanSteps(PROFILE)
    counts = list(range(1, 17))
    steps = []
    for count in counts:
        batch = batch_size(model, wanted, count)
        steps.append(
            1000 * model.step_seconds(batch, batch * wanted.context_tokens) if math.isfinite(batch) else math.nan
        )

    def paint(axes: Axes) -> None:
        axes.plot(counts, steps, color=BLUE, marker="o", lw=1.5, label="time between tokens")
        axes.axhline(25, color=VERMILION, lw=1.2, ls=":", label="objective")
        axes.axhline(1000 * PROFILE.step_base, color=INK, lw=0.8, ls="--", label="an empty engine: reading the weights")
        axes.set_ylim(0, 80)
        axes.set_xlabel("decode engines, at eight times the trace's rate")
        axes.set_ylabel("ms")
        axes.legend(frameon=False)

    _picture(folder / "decode.png", paint)
    print([None if math.isnan(step) else round(step, 1) for step in steps])


def policies(folder: Path) -> None:
    """The planner beside a fixed fleet and a threshold scaler, while the mix of work turns over."""
    trace = SHAPES["inversion"](read_trace(TRACE, "mooncake", minutes=40), 0)
    workload = Workload(trace)
    settings = settings_of(load(MANIFEST, "pictures"), profile=None, seed=0)
    runs = [best_run(name, workload, settings) for name in ("static-best", "threshold", "planner")]
    path = folder / "policies.png"
    draw(path, runs, trace="Mix inverted every ten minutes, conversation trace, Qwen3-32B on H200, two GPUs an engine")
    _shrink(path)


def _workload() -> Workload:
    return Workload(read_trace(TRACE, "mooncake"))


def _picture(path: Path, paint: Callable[[Axes], Any]) -> None:
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    paint(axes)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, color="#eeeeee")
    axes.set_axisbelow(True)
    figure.savefig(path, format="png", dpi=100)
    _shrink(path)


def _shrink(path: Path) -> None:
    """128 colours are plenty for lines, and half of the size."""
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def main(folder: Path) -> None:
    """All of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in (demand, prefill, decode, policies):
        picture(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
