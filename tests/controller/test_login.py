from __future__ import annotations

from pathlib import Path

import kopf
import pytest
import yaml

from paceline.controller.login import log_in
from paceline.errors import ConfigError

GOOD = {
    "current-context": "a",
    "contexts": [{"name": "a", "context": {"cluster": "b", "user": "c"}}],
    "clusters": [{"name": "b", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "c", "user": {"token": "t"}}],
}


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


def test_a_kubeconfig_names_server_and_credentials(kubeconfig: Path) -> None:
    kubeconfig.write_text(yaml.safe_dump(GOOD))
    info = log_in(kopf.OperatorSettings())
    assert (info.server, info.token) == ("https://127.0.0.1:1", "t")


def test_it_is_read_anew_every_time(kubeconfig: Path) -> None:
    kubeconfig.write_text(yaml.safe_dump(GOOD))
    log_in(kopf.OperatorSettings())
    kubeconfig.write_text(yaml.safe_dump({**GOOD, "users": [{"name": "c", "user": {"token": "other"}}]}))
    assert log_in(kopf.OperatorSettings()).token == "other"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't read"),
        ("a: [", "not valid YAML"),
        ("- a list", "not a kubeconfig"),
        ("{}", "context"),
        (yaml.safe_dump({**GOOD, "current-context": "x"}), "'x'"),
        (yaml.safe_dump({**GOOD, "clusters": [{"name": "b", "cluster": {}}]}), "names no server"),
    ],
    ids=["missing", "no-yaml", "list", "empty", "unknown-context", "no-server"],
)
def test_what_is_wrong_with_a_kubeconfig_is_said_in_a_sentence(kubeconfig: Path, text: str | None, said: str) -> None:
    if text is not None:
        kubeconfig.write_text(text)
    with pytest.raises(ConfigError, match="KUBECONFIG") as caught:
        log_in(kopf.OperatorSettings())
    assert said in str(caught.value)


def test_without_any_way_to_a_server_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="set KUBECONFIG"):
        log_in(kopf.OperatorSettings())
