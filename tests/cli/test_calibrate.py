"""``paceline calibrate``: points in, a profile out that the other commands take."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.cli import run
from paceline.cli.workloads import read_profile
from paceline.errors import ConfigError
from paceline.planning.points import Points, csv_of
from paceline.policy.scaling.fit import PrefillPoint, StepPoint
from paceline.policy.scaling.profiles import get_profile

REAL = get_profile("llama-3.1-8b-h100-tp1")


@pytest.fixture
def points(tmp_path: Path) -> Path:
    path = tmp_path / "points.csv"
    prefills = tuple(PrefillPoint(n, 0, REAL.prefill_seconds(n)) for n in (100, 1000, 4000, 16_000))
    steps = tuple(StepPoint(b, b * 1000, REAL.step_seconds(b, b * 1000)) for b in (1, 8, 32, 128))
    path.write_text(csv_of(Points(prefills, steps)))
    return path


def test_a_measured_profile_is_written_and_its_errors_are_printed(
    points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.toml"
    code = run(
        ["calibrate", str(points), "--model", "meta-llama/Llama-3.1-8B", "--accelerator", "h100", "-o", str(out)]
    )
    assert code == 0
    profile = read_profile(str(out))
    assert profile is not None
    assert not profile.estimate
    assert profile.step_seconds(16, 16_000) == pytest.approx(REAL.step_seconds(16, 16_000), rel=0.01)
    assert "prefill: 4 points, error of the fit 0.0% (median)" in capsys.readouterr().err


def test_without_an_output_file_the_entry_is_printed(points: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", str(points), "--like", "llama-3.1-8b-h200-tp1", "--name", "mine"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith('[[profile]]\nname = "mine"')
    assert "estimate = false" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a file of points or --endpoint URL"),
        (["POINTS", "--endpoint", "http://127.0.0.1:1"], "give either a file of points or --endpoint URL"),
        (["POINTS"], r"--model \(not given\): its shape is not known"),
        (["POINTS", "--model", "Qwen3-32B", "--accelerator", "tpu"], "--accelerator tpu: not known"),
        (["POINTS", "--serving", "5"], "--serving needs --endpoint"),
        (["--endpoint", "http://127.0.0.1:1", "--serving", "5"], "--serving: say what to begin with, by --like"),
        (
            ["--endpoint", "http://127.0.0.1:1", "--serving", "5", "--like", "tiny-cpu"],
            "--endpoint http://127.0.0.1:1: ",
        ),
        (["POINTS", "--like", "warp"], "'warp' is not known"),
        (["--endpoint", "http://127.0.0.1:1", "--like", "tiny-cpu"], "--endpoint http://127.0.0.1:1: "),
    ],
)
def test_what_can_not_be_done_is_said(
    points: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["calibrate", *(str(points) if argument == "POINTS" else argument for argument in arguments)]) in (2, 4)
    said = capsys.readouterr().err
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(said)


def test_a_profile_of_a_file_must_be_the_only_one(tmp_path: Path, points: Path) -> None:
    both = tmp_path / "both.toml"
    assert run(["calibrate", str(points), "--like", "tiny-cpu", "--name", "one", "-o", str(both)]) == 0
    text = both.read_text()
    both.write_text(text + text.replace('"one"', '"two"'))
    with pytest.raises(ConfigError, match="holds 2 profiles"):
        read_profile(str(both))
    with pytest.raises(ConfigError, match="can't read it"):
        read_profile(str(tmp_path / "none.toml"))
