from __future__ import annotations

import pytest

from paceline.cli import run

pytestmark = pytest.mark.usefixtures("no_cluster")


def test_without_a_cluster_the_operator_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["operator", "--metrics-port", "0"]) == 2
    assert "set KUBECONFIG" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_fault_that_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("PACELINE_FAULT_CRASH_AFTER_WRITES", value)
    assert run(["operator"]) == 2
    assert "PACELINE_FAULT_CRASH_AFTER_WRITES" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("--lease-seconds", "1"), ("--metrics-port", "70000"), ("--workers", "0")])
def test_flags_out_of_range_are_refused(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["operator", flag, value]) == 2
    assert flag in capsys.readouterr().err
