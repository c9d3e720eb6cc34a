from __future__ import annotations

from pathlib import Path

import pytest

from paceline.cli import run


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_without_a_cluster_it_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check"]) == 2
    assert "set KUBECONFIG" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "3601", "soon"])
def test_a_patience_out_of_range_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--timeout-seconds", value]) == 2
    assert "--timeout-seconds" in capsys.readouterr().err
