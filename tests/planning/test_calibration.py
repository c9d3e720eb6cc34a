"""Calibration: points from files, profiles from points, points from an engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from paceline.errors import ConfigError, EngineError
from paceline.planning.calibration import calibrate, entry_text, sentences
from paceline.planning.endpoint import PROMPTS, measure, step_of
from paceline.planning.points import Points, csv_of, read_points
from paceline.policy.scaling.fit import PrefillPoint, StepPoint
from paceline.policy.scaling.profiles import get_profile, read_profiles

REAL = get_profile("qwen3-32b-h100-tp2")
START = get_profile("qwen3-32b-h200-tp2")
POINTS = Points(
    tuple(PrefillPoint(n, p, REAL.prefill_seconds(n, p)) for n in (256, 1024, 8000, 20_000) for p in (0, 4096)),
    tuple(StepPoint(b, b * c, REAL.step_seconds(b, b * c)) for b in (1, 4, 16, 64) for c in (256, 4000)),
)


def test_a_profile_made_of_points_has_the_times_of_the_points() -> None:
    made = calibrate(POINTS, START, name="mine", provenance="measured here")
    assert made.profile.prefill_seconds(5000, 1000) == pytest.approx(REAL.prefill_seconds(5000, 1000), rel=1e-3)
    assert made.profile.step_seconds(32, 60_000) == pytest.approx(REAL.step_seconds(32, 60_000), rel=1e-3)
    assert not made.profile.estimate
    assert [line.split(",")[0] for line in sentences(made)] == ["prefill: 8 points", "decode step: 8 points"]


def test_what_was_not_measured_stays_and_the_profile_remains_an_estimate() -> None:
    made = calibrate(Points(POINTS.prefills, ()), START, name="mine", provenance="measured here")
    assert made.profile.step_base == START.step_base
    assert made.profile.estimate
    assert "the rest is that of qwen3-32b-h200-tp2" in made.profile.provenance
    assert "decode step: not measured." in list(sentences(made))


def test_the_printed_entry_is_read_back_as_the_same_profile() -> None:
    made = calibrate(POINTS, START, name="mine", provenance='measured on "the big one"').profile
    again = read_profiles(entry_text(made), "mine.toml")["mine"]
    assert again.provenance == made.provenance
    assert again.prefill_seconds(9000, 500) == pytest.approx(made.prefill_seconds(9000, 500), rel=1e-5)
    assert again.kv_capacity_tokens == made.kv_capacity_tokens
    tiny = get_profile("tiny-cpu")
    assert read_profiles(entry_text(tiny), "tiny.toml")["tiny-cpu"] == tiny


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (Points(POINTS.prefills[:3], ()), "3 prefill points are too few for a fit; at least 4"),
        (Points((), tuple(StepPoint(8, 800 + i, 0.01) for i in range(9))), "sequences from 8 to 8; a fit needs"),
        (Points((), tuple(StepPoint(b, 1, 1e-3 * b) for b in (1, 2, 4, 8))), "cost nothing when its batch is small"),
    ],
)
def test_points_that_do_not_determine_a_profile_are_refused(points: Points, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        calibrate(points, START, name="mine", provenance="measured here")


def test_points_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(csv_of(POINTS))
    again = read_points(path)
    assert [point[:2] for point in again.prefills] == [point[:2] for point in POINTS.prefills]
    assert again.steps[3].seconds == pytest.approx(POINTS.steps[3].seconds, rel=1e-5)


def test_json_lines_have_the_same_names(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    rows = [
        {"kind": "prefill", "new_tokens": 100, "milliseconds": 12.5},
        {"kind": "step", "sequences": 4, "context_tokens": 4000, "milliseconds": 11},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert read_points(path) == Points((PrefillPoint(100, 0, 0.0125),), (StepPoint(4, 4000, 0.011),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind,new_tokens,milliseconds\nprefill,none,5\n", "line 2: new_tokens must be a number, not 'none'"),
        ("kind,new_tokens,milliseconds\nprefill,5,-1\n", "line 2: milliseconds must be above 0, not -1"),
        ("kind,new_tokens,milliseconds\nprefill,5,nan\n", "milliseconds must be above 0, not nan"),
        ("kind,new_tokens,milliseconds\nwarmup,5,5\n", "line 2: kind must be prefill or step, not 'warmup'"),
        ('{"kind": "step", "sequences": 0, "context_tokens": 5, "milliseconds": 1}', "sequences must be at least 1"),
        ('{"kind": "step"\n', "line 1: milliseconds must be a number"),
        ("a,b\n1,2\n", "no columns kind and milliseconds"),
        ("kind,milliseconds\n", "holds no points"),
        ("", "holds no points"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_points(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read the points: No such file"):
        read_points(tmp_path / "nothing.csv")


def test_the_step_of_a_batch_is_taken_while_all_of_it_decodes() -> None:
    # The second begins when the first has 5 tokens; alone the first was twice as fast.
    first = [(0.01 * i, i + 1) for i in range(5)] + [(0.05 + 0.02 * i, 6 + i) for i in range(20)]
    second = [(0.05 + 0.02 * i, 1 + i) for i in range(30)]
    found = step_of([first, second])
    assert found is not None
    assert found[0] == pytest.approx(0.02)


def test_streams_that_hardly_overlap_give_no_step() -> None:
    assert step_of([[(0.0, 1), (1.0, 9)], [(2.0, 1), (3.0, 9)]]) is None


class FakeEngine:
    """Answers like vLLM, in no time but the engine's own, on a clock that only it moves."""

    def __init__(self, *, metrics: bool = True) -> None:
        self.now = 0.0
        self.prefill_sum = 0.0
        self.seen: set[tuple[int, ...]] = set()
        self._metrics = metrics

    def clock(self) -> float:
        return self.now

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            self.now += 0.002
            return httpx.Response(200, json={"data": [{"id": "qwen", "max_model_len": 10_000}]})
        if request.url.path == "/metrics":
            text = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="50000"} 1.0\n'
            text += f'vllm:request_prefill_time_seconds_sum{{model_name="qwen"}} {self.prefill_sum!r}\n'
            return httpx.Response(200, text=text if self._metrics else "")
        body = json.loads(request.content)
        prompt = body["prompt"]
        cached = max(
            (len(one) for one in self.seen if tuple(prompt[: len(one)]) == one and len(one) < len(prompt)), default=0
        )
        self.seen.add(tuple(prompt))
        took = REAL.prefill_seconds(len(prompt) - cached, cached)
        self.prefill_sum += took
        self.now += took + 0.002
        return httpx.Response(200, content=self._stream(body)) if body.get("stream") else httpx.Response(200, json={})

    def _stream(self, body: dict[str, int]) -> bytes:
        event = {"choices": [{"text": "a"}], "usage": {"completion_tokens": 1}}
        return b"data: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("metrics", [True, False])
async def test_prefills_are_timed_by_the_engine_or_by_the_clock_less_http(metrics: bool) -> None:
    engine = FakeEngine(metrics=metrics)
    found = await measure(
        "http://engine/v1/", model=None, seed=0, progress=lambda what, share: None,
        transport=httpx.MockTransport(engine.answer), clock=engine.clock,
    )  # fmt: skip
    assert found.model == "qwen"
    assert found.kv_capacity_tokens == (800_000 if metrics else None)
    assert [(new, cached) for new, cached, _ in found.points.prefills] == list(PROMPTS)
    for new, cached, seconds in found.points.prefills:
        assert seconds == pytest.approx(REAL.prefill_seconds(new, cached), rel=0.01)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda request: httpx.Response(500, text="out of memory"), "500"),
        (lambda request: httpx.Response(200, json={"data": []}), "does not serve"),
    ],
)
async def test_an_endpoint_that_can_not_be_measured_is_an_error_for_people(
    answer: Callable[[httpx.Request], httpx.Response], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        await measure(
            "http://engine", model=None, seed=0, progress=lambda what, share: None,
            transport=httpx.MockTransport(answer),
        )  # fmt: skip
