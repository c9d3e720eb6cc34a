"""The command line: every bad input ends in a message and an exit code, never in a traceback; help is instant."""

import json
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paceline import __version__
from paceline.cli import COMPLETE_ENV, EXTRAS, PLUGIN, command_line, run
from paceline.cli.exit_codes import BUG, INTERRUPTED, MEANINGS
from paceline.errors import PacelineError

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "manifests" / "samples" / "quickstart.yaml")
Result = tuple[int, str, str]


def manifest(tmp_path: Path, old: str = "", new: str = "") -> str:
    text = Path(QUICKSTART).read_text()
    assert old in text
    path = tmp_path / "manifest.yaml"
    path.write_text(text.replace(old, new))
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["up"], 2, "Missing argument 'FILE'"),
        (["up", "/nowhere.yaml"], 2, "/nowhere.yaml: can't read the manifest: No such file or directory."),
        (["up", str(ROOT)], 2, "can't read the manifest: Is a directory."),
        (["up", "a\0b"], 2, "is not a file name"),
        (["up", QUICKSTART, "--speed", "0"], 2, "0.0 is not in the range 0<x<=1000"),
        (["up", QUICKSTART, "--speed", "nan"], 2, "nan is not a number"),
        (["up", QUICKSTART, "--speed", "fast"], 2, "'fast' is not a valid float range"),
        (["up", QUICKSTART, "--port", "70000"], 2, "70000 is not in the range 0<=x<=65535"),
        (["up", QUICKSTART, "--prefill", "0"], 2, "0 is not in the range"),
        (["up", QUICKSTART, "--engine", "abacus"], 2, "'abacus' is not one of 'emulator', 'vllm'"),
        (["up", QUICKSTART, "--load-minutes", "-1"], 2, "-1.0 is not in the range"),
        (["up", QUICKSTART, "--once"], 2, "--once, --report and --plot need a load"),
        (["up", QUICKSTART, "--report", "x"], 2, "need a load: add --load conversation"),
        (["up", QUICKSTART, "--engine", "vllm", "--speed", "2"], 2, "are for emulated engines"),
        (["up", QUICKSTART, "--engine", "vllm"], 3, "vLLM beside paceline (`make demo-vllm` installs both"),
        (["up", QUICKSTART, "--load", "tea"], 2, "'tea' is not a load; use conversation, agents, shift or moon"),
        (["up", QUICKSTART, "--load", "mooncake:/nowhere"], 2, "/nowhere: can't read the trace"),
        (["up", QUICKSTART, "--profile", "abacus"], 2, "qwen3-32b-h200-tp2"),
        (["up", QUICKSTART, "--model-path", "/nowhere"], 2, "--model-path: /nowhere is not a folder."),
        (["up", QUICKSTART, "--load", "conversation", "--report", "/proc/x/r.json"], 2, "--report: can't write"),
        (["up", QUICKSTART, "--load", "conversation", "--plot", "/"], 2, "--plot: can't write /: Is a directory."),
        (["up", QUICKSTART, "--run-dir", "/proc/x"], 2, "--run-dir: can't use /proc/x"),
        (["validate"], 2, "Missing argument 'FILE...'"),
        (["validate", "/nowhere"], 2, "/nowhere: can't read the manifest"),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, list) else None,
)
def test_bad_input_is_answered_with_a_message(
    paceline: Callable[..., Result], arguments: list[str], code: int, message: str
) -> None:
    found, out, err = paceline(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ttftMilliseconds: 2000", "ttftMilliseconds: soon", "spec.slo.ttftMilliseconds"),
        ("ttftMilliseconds: 2000", "ttftMilliseconds: 0", "spec.slo.ttftMilliseconds"),
        ("itlMilliseconds", "itlMiliseconds", "itlMilliseconds"),
        ("kind: ModelDeployment", "kind: Deployment", "must be ModelDeployment (found 'Deployment')"),
        ("spec:", "spec: [", "line"),
    ],
)
def test_a_bad_manifest_is_answered_with_field_and_value(
    paceline: Callable[..., Result], tmp_path: Path, old: str, new: str, message: str
) -> None:
    for command in ("up", "validate"):
        code, out, err = paceline(command, manifest(tmp_path, old, new))
        assert (code, out) == (2, "")
        assert message in err
        assert "Traceback" not in err


def test_a_port_in_use_is_named_before_anything_starts(paceline: Callable[..., Result], tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        code, out, err = paceline("up", QUICKSTART, "--port", str(port), "--run-dir", str(tmp_path))
    assert (code, out) == (5, "")
    assert f"Port {port} on 127.0.0.1 is in use." in err
    assert not (tmp_path / "logs").exists()


def test_a_run_directory_in_use_is_refused(paceline: Callable[..., Result], tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = paceline("up", QUICKSTART, "--port", "0", "--run-dir", str(tmp_path))
    assert code == 5
    assert "Another paceline runs in" in err


def test_validate_names_what_is_valid_and_every_problem_of_the_rest(
    paceline: Callable[..., Result], tmp_path: Path
) -> None:
    bad = manifest(tmp_path, "ttftMilliseconds: 2000\n    itlMilliseconds: 50", "ttftMilliseconds: 0\n    speed: 1")
    code, out, err = paceline("validate", QUICKSTART, bad)
    assert code == 2
    assert out == f"{QUICKSTART}: valid (quickstart)\n"
    assert "spec.slo.ttftMilliseconds" in err
    assert "spec.slo.speed" in err
    assert "spec.slo.itlMilliseconds" in err


@pytest.mark.parametrize(
    ("sample", "old", "new", "message"),
    [
        (
            "cpu", "limits: {memory: 4Gi}", "limits: {memory: 4GiB}",
            "spec.engine.podTemplate.spec.containers[0].resources.limits.memory: must be an amount such as 4Gi",
        ),
        (
            "tenants", '    extraArgs: ["--reasoning-parser=qwen3"]\n', "",
            "spec.tenancy.reasoningTokens: needs engines that know where reasoning ends: add --reasoning-parser=NAME",
        ),
        (
            "elastic", "  name: elastic", "  name: elastic\n  annotations: {paceline.dev/engine-profile: h999}",
            "manifest.yaml: metadata.annotations[paceline.dev/engine-profile]: engine profile 'h999' is not known.",
        ),
    ],
)  # fmt: skip
def test_validate_finds_what_only_shows_when_pods_and_plans_are_made(
    sample: str, old: str, new: str, message: str, paceline: Callable[..., Result], tmp_path: Path
) -> None:
    text = Path(QUICKSTART).with_name(f"{sample}.yaml").read_text()
    assert old in text
    path = tmp_path / "manifest.yaml"
    path.write_text(text.replace(old, new))
    code, out, err = paceline("validate", str(path))
    assert (code, out) == (2, "")
    assert message in err


def test_a_manifest_is_read_from_standard_input() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from paceline.cli import main; main()", "validate", "-"],
        input=Path(QUICKSTART).read_bytes(), capture_output=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (0, b"-: valid (quickstart)\n", b"")


def test_the_version_is_that_of_the_package(paceline: Callable[..., Result]) -> None:
    assert paceline("--version") == (0, f"paceline, version {__version__}\n", "")


@pytest.mark.parametrize("command", sorted(command_line.commands))
def test_every_command_explains_itself(paceline: Callable[..., Result], command: str) -> None:
    code, out, err = paceline(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: paceline {command}")


HEAVY = {
    "aiohttp", "httpx", "kopf", "kubernetes", "matplotlib", "msgspec", "numpy", "prometheus_client", "pydantic", "rich",
    "uvloop", "yaml",
}  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["completion", "zsh"], ["nonsense"]], ids=" ".join)
def test_what_needs_no_cluster_and_no_file_imports_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(arguments) & HEAVY == set()


def test_the_help_of_every_command_imports_nothing_heavy() -> None:
    assert loaded_by(*([name, "--help"] for name in sorted(command_line.commands))) & HEAVY == set()


def loaded_by(*runs: list[str]) -> set[str]:
    """Packages that a program has imported after these runs."""
    code = (
        "import sys, json\n"
        "from paceline.cli import run\n"
        f"for arguments in {list(runs)!r}: run(arguments)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    return set(json.loads(out.splitlines()[-1]))


def test_kubectl_runs_the_same_program_under_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--help"], name=PLUGIN) == 0
    assert capsys.readouterr().out.startswith("Usage: kubectl paceline status [OPTIONS] [NAME]")


def test_a_package_that_is_not_installed_is_named_with_what_brings_it(
    paceline: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    code, _, err = paceline("status")
    assert code == 2
    assert err == "paceline: this command needs the package kubernetes: pip install 'paceline[operator]'.\n"


def test_every_package_that_an_extra_brings_is_one_of_that_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        names = {requirement.partition(">")[0].partition(";")[0].replace("-", "_") for requirement in extras[extra]}
        assert package in names


def test_every_error_has_an_exit_code_that_is_documented() -> None:
    def all_of(kind: type[PacelineError]) -> Iterator[type[PacelineError]]:
        yield kind
        for below in kind.__subclasses__():
            yield from all_of(below)

    assert {kind.exit_code for kind in all_of(PacelineError)} <= MEANINGS.keys()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script_that_asks_this_program(paceline: Callable[..., Result], shell: str) -> None:
    code, out, err = paceline("completion", shell)
    assert (code, err) == (0, "")
    assert f"{COMPLETE_ENV}={shell}_complete" in out


@pytest.mark.parametrize("command", sorted(command_line.commands))
def test_the_help_of_every_command_has_an_example(paceline: Callable[..., Result], command: str) -> None:
    _, out, _ = paceline(command, "--help")
    assert f"  paceline {command}" in out.partition("Examples:")[2]


def test_an_interruption_has_the_exit_code_that_shells_expect(
    paceline: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "main", interrupt)
    assert paceline("up", "x") == (INTERRUPTED, "", "")


def test_a_bug_is_reported_as_one_without_a_traceback_unless_asked_for(
    paceline: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(command_line, "main", fail)
    monkeypatch.delenv("PACELINE_DEBUG", raising=False)
    code, _, err = paceline("up", "x")
    assert code == BUG
    assert "please report it: ZeroDivisionError: by zero" in err
    assert "Traceback" not in err
    monkeypatch.setenv("PACELINE_DEBUG", "1")
    assert "Traceback" in paceline("up", "x")[2]


def test_a_reader_that_goes_away_is_no_bug() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as output:
        result = subprocess.run(
            [sys.executable, "-c", "from paceline.cli import main; main()", "validate", *[QUICKSTART] * 3],
            stdout=output, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr == b""
