"""The picture of a load is drawn from anything that can happen, and only complains where it can't write."""

import random
from pathlib import Path

import pytest

from paceline.api.v1alpha1 import Objective
from paceline.api.wire import Role
from paceline.errors import ConfigError
from paceline.local.kubelet import PodPhase
from paceline.local.load import LoadResult, RequestResult
from paceline.local.monitor import EngineSample, Sample
from paceline.local.plot import draw
from paceline.local.report import LoadFacts, make_report
from paceline.local.scrape import EngineMetrics, RouterMetrics
from paceline.traces.record import TraceRequest

OBJECTIVE = Objective(ttft_milliseconds=2000, itl_milliseconds=50)


def a_result(requests: int, failures: int = 0) -> LoadResult:
    rng = random.Random(1)
    found = []
    for number in range(requests):
        at = number * 0.05
        ttft = rng.lognormvariate(-2, 1)
        one = RequestResult(TraceRequest(at * 10, 500, 20), at, at, 200, ttft, 0.003, 0.01, at + ttft, 20)
        one.error = "503" if number < failures else None
        found.append(one)
    return LoadResult(found, seconds=max(1.0, requests * 0.05))


def samples(seconds: float) -> list[Sample]:
    def engine(name: str, role: Role | None, running: int | None) -> EngineSample:
        metrics = None if running is None else EngineMetrics(running=running, waiting=1)
        phase = PodPhase.STARTING if running is None else PodPhase.READY
        return EngineSample(name, "pool", role, phase, "", 1, metrics)

    return [
        Sample(100 + at, (engine("a", Role.PREFILL, at), engine("b", Role.DECODE, None)), RouterMetrics(queued=at))
        for at in range(int(seconds))
    ]


@pytest.mark.parametrize(("requests", "failures"), [(200, 0), (200, 30), (1, 0), (3, 3)])
def test_a_picture_is_written(tmp_path: Path, requests: int, failures: int) -> None:
    result = a_result(requests, failures)
    report = make_report(result, OBJECTIVE, LoadFacts("d", "engines", "load", 10.0))
    path = tmp_path / "slo.png"
    draw(path, report=report, result=result, samples=samples(result.seconds), objective=OBJECTIVE, started=100.0)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_a_sample_is_written_too(tmp_path: Path) -> None:
    result = a_result(5)
    report = make_report(result, OBJECTIVE, LoadFacts("d", "engines", "load", 1.0))
    draw(tmp_path / "p", report=report, result=result, samples=[], objective=OBJECTIVE, started=0.0)
    assert (tmp_path / "p").stat().st_size > 1000


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    result = a_result(5)
    report = make_report(result, OBJECTIVE, LoadFacts("d", "engines", "load", 1.0))
    with pytest.raises(ConfigError, match=r"--plot: can't write .*: Is a directory"):
        draw(tmp_path, report=report, result=result, samples=[], objective=OBJECTIVE, started=0.0)
