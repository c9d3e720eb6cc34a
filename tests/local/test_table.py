"""What the user sees while engines start and while they serve."""

import math

from rich.console import Console, RenderableType

from paceline.api.v1alpha1 import Objective
from paceline.api.wire import Role
from paceline.local.kubelet import PodPhase
from paceline.local.monitor import EngineSample, Sample
from paceline.local.scrape import EngineMetrics, Histogram, RouterMetrics
from paceline.local.table import WINDOW_SECONDS, serving_page, summary, window_start

OBJECTIVE = Objective(ttft_milliseconds=2000, itl_milliseconds=50)


def text(page: RenderableType) -> str:
    console = Console(width=160, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(page)
    return capture.get()


def engine(
    name: str, role: Role | None, tokens: float = 0.0, *, phase: PodPhase = PodPhase.READY, starts: int = 1
) -> EngineSample:
    metrics = EngineMetrics(3, 2, 0.255, 100.0, 40.0, tokens) if phase is PodPhase.READY else None
    return EngineSample(name, "pool", role, phase, "", starts, metrics)


def sample(at: float, *engines: EngineSample, ttft: tuple[float, ...] = (0.0, 0.0)) -> Sample:
    return Sample(at, engines, RouterMetrics(5, 1, Histogram((0.2, math.inf), ttft), Histogram()))


def test_each_engine_has_a_line_with_role_state_and_load() -> None:
    page = text(
        serving_page(
            [
                sample(0, engine("a", Role.PREFILL, 100)),
                sample(2, engine("a", Role.PREFILL, 300), engine("b", None, phase=PodPhase.STARTING, starts=2)),
            ],
            OBJECTIVE, 10.0, "headline",
        )
    )  # fmt: skip
    lines = {line.split()[0]: line.split() for line in page.splitlines() if line.strip()}
    assert lines["a"] == ["a", "prefill", "ready", "3", "2", "26%", "40%", "10"]
    assert lines["b"] == ["b", "(start", "2)", "–", "starting", "–", "–", "–", "–", "–"]
    assert "headline" in page


def test_latencies_are_in_the_engines_time_and_of_the_window() -> None:
    before = sample(0, engine("a", Role.PREFILL), ttft=(50.0, 100.0))
    after = sample(10, engine("a", Role.PREFILL), engine("b", Role.DECODE), ttft=(60.0, 110.0))
    line = summary(after, before, OBJECTIVE, 10.0)
    assert line.startswith("1P:1D  running 5  queued 1  TTFT p50 1,000 p95 1,900 ms, 100% within 2,000")
    assert "ITL –" in line
    assert "(last 10 s; target 95%)" in line


def test_an_engine_that_was_started_again_counts_its_tokens_from_its_start() -> None:
    page = text(
        serving_page(
            [sample(0, engine("a", Role.BOTH, 9000)), sample(1, engine("a", Role.BOTH, 7, starts=2))],
            OBJECTIVE, 1.0, "",
        )
    )  # fmt: skip
    assert next(line for line in page.splitlines() if line.startswith("a ")).split()[-1] == "7"


def test_the_window_begins_with_the_newest_sample_that_is_old_enough() -> None:
    samples = [sample(at) for at in range(100)]
    assert window_start(samples).at == 99 - WINDOW_SECONDS
    assert window_start(samples[:5]).at == 0
