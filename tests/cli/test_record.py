"""``paceline record`` and what can be done with what it writes: simulate it with other settings."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from paceline.cli import run
from paceline.planner.recorder import Recorder
from paceline.simulator.cluster import Targets
from tests.planner.pages import FakeRouter, text_of
from tests.planner.servers import serving
from tests.planner.world import World, elastic, traffic


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a planner saw within two minutes, as ``--record`` keeps it."""
    folder = tmp_path_factory.mktemp("recording")
    world = World(elastic(), traffic(120.0, rate=lambda _: 3.0, most=3.0), initial=Targets(1, 1))
    world.run()
    recorder = Recorder(folder)
    for step in world.steps:
        recorder.write(("default", "elastic"), world.planner, step)
    recorder.close()
    (file,) = folder.iterdir()
    return file


def manifest(folder: Path, *, ttft: int) -> Path:
    path = folder / f"elastic-{ttft}.yaml"
    document = elastic().model_dump(mode="json", by_alias=True, exclude_none=True)
    document["spec"]["slo"]["ttftMilliseconds"] = ttft
    path.write_text(json.dumps(document))
    return path


def test_a_recording_is_simulated_with_whatever_settings_and_shows_what_they_change(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    assert run(["record", str(recording), "-o", str(trace)]) == 0
    assert f"written to {trace}" in capsys.readouterr().out
    attained = {}
    for ttft in (400, 2000):
        out = tmp_path / f"{ttft}.json"
        words = ["--trace", str(trace), "--trace-format", "paceline", "--policy", "planner", "--json", str(out)]
        assert run(["simulate", str(manifest(tmp_path, ttft=ttft)), *words]) == 0
        (policy,) = json.loads(out.read_text())["policies"]
        assert policy["requests"] == len(trace.read_text().splitlines())
        attained[ttft] = policy["attainment"]
    assert attained[400] < attained[2000]


async def test_what_routers_are_asked_from_now_on_becomes_a_trace(tmp_path: Path) -> None:
    router = FakeRouter()

    async def page(_: web.Request) -> web.Response:
        router.arrive(3000, 500, times=4)
        router.answer(3500, 120, times=4)
        return web.Response(text=text_of(router.samples()), content_type="text/plain")

    trace = tmp_path / "trace.jsonl"
    async with serving(page) as address:
        words = ["--router", urlsplit(address).netloc, "--minutes", "0.05", "--every", "0.5", "-o", str(trace)]
        assert await asyncio.to_thread(run, ["record", *words]) == 0
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    assert len(rows) >= 8
    assert all(abs(row["inputTokens"] - 3500) < 500 for row in rows)
    # What is not known yet is taken to be longer.
    assert 120 <= rows[-1]["outputTokens"] < rows[0]["outputTokens"] < 256


def test_it_records_one_thing_or_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["record", "-o", str(tmp_path / "trace.jsonl")]) != 0
    assert "--router" in capsys.readouterr().err


def test_a_file_that_is_no_recording_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text("{}\n")
    assert run(["record", str(wrong), "-o", str(tmp_path / "trace.jsonl")]) != 0
    assert f"{wrong}, line 1" in capsys.readouterr().err
