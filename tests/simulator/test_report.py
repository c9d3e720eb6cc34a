"""The figures of a report, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paceline.simulator.report import policy_report, report
from paceline.simulator.request import Outcome
from paceline.simulator.score import Score, feasible
from paceline.simulator.simulation import Run
from paceline.simulator.workload import Workload
from paceline.traces.record import TraceRequest
from tests.simulator.scenes import PROFILE, settings, trace_of

LONG = 60_000
"""Tokens of a prompt whose prefill alone takes longer than the objective."""


def run_of(*rows: tuple[int, float, float, Outcome], gpu_seconds: float = 3600.0) -> Run:
    """(prompt, TTFT, ITL, outcome) of requests a second apart."""
    workload = Workload(trace_of(*(TraceRequest(float(at), row[0], 10) for at, row in enumerate(rows))))
    score = Score(len(rows), settings().objective)
    for number, (prompt, ttft, itl, outcome) in enumerate(rows):
        score.ttft[number], score.itl[number], score.outcome[number] = ttft, itl, outcome
        score.completed += outcome is Outcome.COMPLETED
        score.rejected += outcome is Outcome.REJECTED
        score.completed_prompt_tokens += prompt
        score.computed_tokens += prompt // 2
    return Run("by hand", workload, settings(), score, gpu_seconds=gpu_seconds, wall_seconds=0.5)


ROWS = (
    (1000, 1.0, 0.020, Outcome.COMPLETED),
    (1000, 2.5, 0.020, Outcome.COMPLETED),
    (1000, 1.0, 0.030, Outcome.COMPLETED),
    (1000, math.nan, math.nan, Outcome.REJECTED),
    (LONG, 9.0, 0.020, Outcome.COMPLETED),
)


def test_attainment_counts_refused_requests_as_misses() -> None:
    figures = policy_report(run_of(*ROWS))
    assert figures.attainment == pytest.approx(1 / 5)
    assert figures.feasible_attainment == pytest.approx(1 / 4)
    assert (figures.completed, figures.rejected, figures.lost) == (4, 1, 0)
    assert not figures.meets_gate


def test_goodput_is_over_the_time_in_which_requests_arrived() -> None:
    figures = policy_report(run_of(*ROWS))
    assert figures.goodput_rps == pytest.approx(1 / 4)
    assert figures.gpu_hours == 1
    assert figures.goodput_per_gpu_hour == 1
    assert figures.prefix_hit_rate == pytest.approx(0.5)


def test_quantiles_are_in_milliseconds_and_of_completed_requests() -> None:
    figures = policy_report(run_of(*ROWS))
    assert figures.ttft_ms.p50 == pytest.approx(1750)
    assert figures.itl_ms.p50 == pytest.approx(20)


def test_without_any_first_token_there_are_no_quantiles() -> None:
    figures = policy_report(run_of((1000, math.nan, math.nan, Outcome.REJECTED)))
    assert figures.ttft_ms.p99 is None
    assert figures.attainment == 0


def test_a_request_that_has_no_outcome_is_lost_and_fails_the_gate() -> None:
    figures = policy_report(run_of((1000, 1.0, 0.02, Outcome.COMPLETED), (1000, math.nan, math.nan, Outcome.LOST)))
    assert figures.lost == 1
    assert not figures.meets_gate


def test_the_speed_is_that_of_the_runs_shown() -> None:
    assert report("t", [run_of(*ROWS), run_of(*ROWS)]).simulated_requests_per_second == pytest.approx(10)


def test_feasible_is_what_meets_the_objective_alone_on_idle_engines() -> None:
    prompts = (1, 500, 20_000, 30_000, LONG)
    workload = Workload(trace_of(*(TraceRequest(0.0, prompt, 5) for prompt in prompts)))
    alone = [
        PROFILE.prefill_seconds(prompt) + PROFILE.transfer_seconds(prompt) + PROFILE.step_seconds(1, prompt) <= 2.0
        for prompt in prompts
    ]
    assert feasible(workload, PROFILE, settings().objective).tolist() == alone
    assert np.unique(alone).size == 2
