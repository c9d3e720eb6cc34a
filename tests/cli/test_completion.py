"""What shells complete: commands, flags, and names of what is in the cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paceline.cli import COMPLETE_ENV, run
from tests.cli.fake_cluster import FakeCluster
from tests.cli.scenes import ready_deployment

Completed = Callable[[str], list[str]]


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Completed:
    """Asks as bash does: for the last of these words."""

    def ask(words: str) -> list[str]:
        monkeypatch.setenv(COMPLETE_ENV, "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        with pytest.raises(SystemExit):
            run([])
        return [line.partition(",")[2] for line in capsys.readouterr().out.splitlines() if line]

    return ask


def test_commands_flags_and_their_values_are_completed(completed: Completed) -> None:
    assert completed("paceline st") == ["status"]
    assert completed("paceline status --names") == ["--namespace"]
    assert completed("paceline flip x --to ") == ["prefill", "decode"]


def test_deployments_and_engines_of_the_cluster_are_completed(cluster: FakeCluster, completed: Completed) -> None:
    ready_deployment(cluster)
    assert completed("paceline status ch") == ["chat"]
    assert completed("paceline explain x") == []
    assert completed("paceline drain chat-") == ["chat-a", "chat-b", "chat-c"]
    assert completed("paceline flip chat-b") == ["chat-b"]
    assert completed("paceline status --context there -n nowhere ") == []


def test_without_a_cluster_nothing_is_completed_and_nothing_is_said(
    completed: Completed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert completed("paceline status ") == completed("paceline drain ") == []
