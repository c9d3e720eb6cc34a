"""The live page: what it says without a browser, and that nobody gets it who did not ask for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from paceline.errors import ConfigError
from paceline_worker.router.live.page import KEPT_SECONDS, MAX_CHANGES
from paceline_worker.router.live.settings import LiveSettings, read_live_settings
from tests.worker.router.live.scene import Scene, engine


def test_the_page_is_off_unless_it_is_asked_for() -> None:
    assert read_live_settings({}) is None
    assert read_live_settings({"PACELINE_LIVE_PAGE": "off"}) is None
    assert read_live_settings({"PACELINE_LIVE_PAGE": "on"}) == LiveSettings(None)
    asked = {"PACELINE_LIVE_PAGE": "on", "PACELINE_LIVE_DECISIONS": "/run/planner.json"}
    assert read_live_settings(asked) == LiveSettings(Path("/run/planner.json"))


def test_a_setting_that_is_neither_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be on or off, not 'yes'"):
        read_live_settings({"PACELINE_LIVE_PAGE": "yes"})


def test_it_says_who_came_changed_and_went_newest_first() -> None:
    scene = Scene()
    scene.engines(engine("a"), engine("b", state="starting"))
    scene.engines(engine("a", role="prefill"), engine("b"))
    scene.engines(engine("b", role="prefill", state="draining"))
    assert scene.changes()[:2] in (
        ["b decode → prefill, draining", "a went"],
        ["a went", "b decode → prefill, draining"],
    )
    assert sorted(scene.changes()[2:4]) == ["a decode → prefill", "b ready"]
    assert sorted(scene.changes()[4:]) == ["a came as decode, ready", "b came as decode, starting"]


def test_nothing_changed_is_no_change() -> None:
    scene = Scene()
    scene.engines(engine("a"))
    scene.engines(engine("a"))
    assert len(scene.changes()) == 1


def test_what_is_kept_is_bounded() -> None:
    scene = Scene()
    for number in range(MAX_CHANGES):
        scene.engines(engine("a", role="prefill" if number % 2 else "decode"))
        scene.engines(engine(f"other-{number}"))
    for _ in range(KEPT_SECONDS + 10):
        scene.page.tick()
    assert len(scene.changes()) == MAX_CHANGES
    assert len(scene.page._past) == KEPT_SECONDS


def test_numbers_are_those_of_the_metrics() -> None:
    scene = Scene()
    scene.engines(engine("a"))
    scene.metrics.ttft.observe(0.5)
    scene.slo.streamed("default", ttft_seconds=0.5, itl_seconds=0.01)
    state: Any = scene.page.state()
    assert (state["deployment"], state["namespace"], state["running"], state["queued"]) == ("chat", "team", 5, 2)
    assert sum(state["ttft"]["counts"]) == 1
    assert [(one["name"], one["met"], one["missed"]) for one in state["classes"]] == [("default", 1, 0)]
    assert [one["role"] for one in state["engines"]] == ["decode"]


@pytest.mark.parametrize("content", ["", "{", '{"status": 3}', '{"status": {"scaling": {"history": 3}}}', None])
def test_decisions_that_can_not_be_read_are_none(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "planner.json"
    if content is not None:
        file.write_text(content)
    state: Any = Scene(file).page.state()
    assert state["decisions"] == []


def test_decisions_of_the_planner_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "planner.json"
    file.write_text(json.dumps({"status": {"scaling": {"history": [{"reason": "TTFT"}] * 30}}, "other": 1}))
    state: Any = Scene(file).page.state()
    assert state["decisions"] == [{"reason": "TTFT"}] * 20


async def test_files_come_with_a_policy_that_lets_nothing_in_from_elsewhere() -> None:
    app = web.Application()
    app.add_routes(Scene().page.routes())
    async with TestClient(TestServer(app)) as client:
        for path, kind in (
            ("/live", "html"),
            ("/live/live.js", "javascript"),
            ("/live/live.css", "css"),
            ("/live/past", "json"),
        ):
            answer = await client.get(path)
            assert answer.status == 200
            assert kind in answer.headers["content-type"]
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
            text = await answer.text()
            assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
            assert "https://" not in text
        for path in ("/live/../page.py", "/live/page.py", "/live/x.html"):
            assert (await client.get(path)).status == 404
        assert (await client.post("/live/state")).status == 405
