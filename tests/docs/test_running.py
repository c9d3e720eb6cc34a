"""The commands in the pages that answer in seconds are run, in a folder that holds what the pages presuppose, and what
the pages say of their output is held against it.

Run: validate, plan, simulate, record and calibrate of files, explain of a folder of a run, completion, ``--help``, and
``make`` alone. Only parsed (``test_commands``) are the rest: status, check, drain, flip, explain NAME, operator,
kubectl and helm need a cluster; bench, planner, explain --request, record --router and calibrate --endpoint need
something that answers; up and make's other targets start servers or take minutes, as benchmarks (``python -m``) do.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
import yaml

from paceline.api.v1alpha1 import load
from paceline.cli import command_line, run
from paceline.cli.workloads import read_profile
from paceline.planner.recorder import Recorder
from paceline.planning.points import Points, csv_of
from paceline.policy.scaling.fit import PrefillPoint, StepPoint
from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.cluster import Targets
from paceline.traces.generate import ConversationShape, generate_conversations
from paceline.traces.recording import read_recording, write_recording
from tests.docs.commands import Shown, in_text, shown_in_blocks
from tests.docs.markdown import ROOT, pages
from tests.planner.world import World, elastic, traffic

SAMPLES: Final = ROOT / "manifests" / "samples"
STAND_INS: Final = {
    "FILE": "deployment.yaml", "TRACE": "load.jsonl", "T": "load.jsonl", "OUT.png": "out.png",
    "RECORDING": "seen/prod.chat.observations.jsonl", "/tmp/run": "out/demo/run",
}  # fmt: skip
"""What stands for a file in the pages, and the file that is there."""
ASKED: Final = frozenset({"--router", "--request", "--endpoint"})
"""Options that name something which has to answer."""
PNG: Final = b"\x89PNG"


def runs(words: list[str]) -> bool:
    """Whether a command can be run here."""
    if words[0] != "paceline":
        return words == ["make"]
    if "--help" in words:
        return True
    if ASKED & set(words):
        return False
    return words[1] in {"validate", "plan", "simulate", "record", "calibrate", "completion"} or "--run-dir" in words


def whole(words: list[str]) -> bool:
    """Whether what a sentence names is the whole command: `paceline plan` alone is not."""
    return len(words) > 3


def commands() -> list[Shown]:
    """What is run: each command once, with the output that some page shows."""
    found: dict[str, Shown] = {}
    for page in pages():
        inside = (Shown(words) for words in in_text(page) if whole(words))
        for shown in (*shown_in_blocks(page), *inside):
            if runs(shown.words):
                words = [STAND_INS.get(word, word) for word in shown.words]
                known = found.setdefault(" ".join(words), dataclasses.replace(shown, words=words))
                if shown.output and not known.output:
                    found[" ".join(words)] = dataclasses.replace(known, output=shown.output)
    return list(found.values())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "manifests").symlink_to(ROOT / "manifests")
    for name, sample in (("deployment", "disaggregated-h200"), ("first", "quickstart"), ("other", "elastic")):
        shutil.copy(SAMPLES / f"{sample}.yaml", folder / f"{name}.yaml")
    broken = (SAMPLES / "quickstart.yaml").read_text().replace("ttftMilliseconds", "ttftMiliseconds")
    (folder / "broken.yaml").write_text(broken)
    chats = generate_conversations(ConversationShape(requests_per_second=1), seconds=90, rng=random.Random(1))
    for name in ("load", "trace"):
        write_recording(chats, folder / f"{name}.jsonl")
    world = World(elastic(), traffic(120.0, rate=lambda _: 3.0), initial=Targets(1, 1))
    world.run()
    for key in (("local", "elastic"), ("prod", "chat")):
        recorder = Recorder(folder / "seen")
        for step in world.steps:
            recorder.write(key, world.planner, step)
        recorder.close()
    shutil.copytree(ROOT / "tests" / "docs" / "recorded", folder / "out" / "demo" / "run")
    real = get_profile("qwen3-32b-h200-tp2")
    prefills = tuple(PrefillPoint(n, 0, real.prefill_seconds(n)) for n in (256, 1024, 4096, 16_384))
    steps = tuple(StepPoint(b, b * 1000, real.step_seconds(b, b * 1000)) for b in (1, 8, 32, 128))
    (folder / "points.csv").write_text(csv_of(Points(prefills, steps)))
    (folder / "mine.toml").write_text(fitted(folder / "points.csv"))
    return folder


def fitted(points: Path) -> str:
    written = points.with_name("fitted.toml")
    assert run(["calibrate", str(points), "--like", "qwen3-32b-h200-tp2", "-o", str(written)]) == 0
    return written.read_text()


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, so that no command needs another one to have run before."""
    shutil.copytree(prepared, tmp_path / "reader", symlinks=True)
    monkeypatch.chdir(tmp_path / "reader")
    # What kubectl pipes into `paceline validate -`.
    manifest = yaml.safe_load((prepared / "deployment.yaml").read_text())
    manifest["metadata"] |= {"uid": "0", "generation": 1, "managedFields": [{"manager": "kubectl"}]}
    manifest["status"] = {"engines": "2/2"}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(yaml.safe_dump(manifest).encode())))
    return tmp_path / "reader"


@pytest.mark.parametrize("shown", commands(), ids=lambda shown: " ".join(shown.words)[:90])
def test_a_command_of_the_pages_does_what_they_say(
    shown: Shown, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = shown.words
    if program == "make":
        done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "Serve a deployment on emulated engines" in done.stdout
        return
    for path in map(Path, written_by(words)):
        path.unlink(missing_ok=True)
    code = run(words)
    out, err = capsys.readouterr()
    assert code == (2 if "broken.yaml" in words else 0), err
    assert "Traceback" not in err
    for path in map(Path, written_by(words)):
        assert path.stat().st_size, f"{path} is empty"
        assert path.suffix != ".png" or path.read_bytes().startswith(PNG)
    found = [without_figures(line) for line in (out + err).splitlines()]
    for line in shown.output:
        assert without_figures(line) in found
    if "--help" not in words and words[0] in SAID:
        SAID[words[0]](words, out, err)


def written_by(words: list[str]) -> list[str]:
    """Files that a command writes; -o is one only where it is not json or yaml."""
    options = {"-o", "--manifest", "--plot", "--json", "--save-points"}
    return [value for option, value in pairwise(words) if option in options and value not in {"json", "yaml"}]


def without_figures(text: str) -> str:
    """Figures are those of another run."""
    return re.sub(r"\d[\d,.]*", "N", " ".join(text.split()))


def said_of_validate(words: list[str], out: str, err: str) -> None:
    names = {"deployment.yaml": "qwen3-32b", "-": "qwen3-32b", "other.yaml": "elastic"}
    assert out.splitlines() == [f"{file}: valid ({names[file]})" for file in words[1:] if file in names]


def said_of_plan(words: list[str], out: str, err: str) -> None:
    if "yaml" in words:
        # "With -o yaml standard output is the manifest alone", which `kubectl apply -f -` takes.
        assert load(out, "standard output").metadata.name == "qwen3-32b"
        out = err
    else:
        assert ("apiVersion: paceline.dev/v1alpha1" in out) == ("--manifest" not in words)
    for part in ("Worth having on", "Cheapest that meets the objective", "Disaggregation ", "in 90% of the draws"):
        assert part in out
    if "--manifest" in words:
        load(Path(words[words.index("--manifest") + 1]).read_text(), "the manifest that was planned")


def said_of_simulate(words: list[str], out: str, err: str) -> None:
    named = words[words.index("--policy") + 1].split(",") if "--policy" in words else None
    asked = named or ["planner", "static-best", "threshold"]
    if "json" in words:
        assert [report["policy"] for report in json.loads(out)["policies"]] == asked
    else:
        assert re.findall(r"│ ([a-z-]+) +│ +[\d.]+%", out) == asked


def said_of_record(words: list[str], out: str, err: str) -> None:
    assert out.endswith(f"written to {words[-1]}\n")
    assert len(read_recording(Path(words[-1])).requests) > 100


def said_of_calibrate(words: list[str], out: str, err: str) -> None:
    # "Prints the errors of the fit and the profile, which --engine-profile takes."
    assert "error of the fit 0.0%" in err
    profile = read_profile(words[-1])
    assert profile is not None
    assert not profile.estimate


def said_of_explain(words: list[str], out: str, err: str) -> None:
    assert "the last look:" in out
    assert "last 2 decisions, newest first:" in out
    assert "1 prefill + 1 decode -> 2 prefill + 1 decode" in out


def said_of_completion(words: list[str], out: str, err: str) -> None:
    assert "_PACELINE_COMPLETE" in out
    if words[1] == "bash":
        subprocess.run(["bash", "-n"], input=out, text=True, check=True)


SAID: Final[dict[str, Callable[[list[str], str, str], None]]] = {
    "validate": said_of_validate,
    "plan": said_of_plan,
    "simulate": said_of_simulate,
    "record": said_of_record,
    "calibrate": said_of_calibrate,
    "explain": said_of_explain,
    "completion": said_of_completion,
}
"""By subcommand: what the pages say of its output."""


def test_every_kind_of_command_that_can_be_run_is_run() -> None:
    ran = {shown.words[1] for shown in commands() if shown.words[0] == "paceline"}
    assert ran >= SAID.keys()
    assert len(commands()) > 20


def test_each_command_is_run_or_known_to_need_more() -> None:
    needs = {"up", "bench", "status", "explain", "drain", "flip", "planner", "check", "operator"}
    assert command_line.commands.keys() - needs == SAID.keys() - {"explain"}


def test_points_as_the_guide_shows_them_are_read(folder: Path, tmp_path: Path) -> None:
    (page,) = (page for page in pages() if page.name == "docs/guides/plan.md")
    (block,) = (block for block in page.blocks("") if block.text.startswith("kind,"))
    header, prefill, step = block.text.splitlines()
    rows = [prefill.replace("1024", str(1024 * n)).replace("56.2", str(56.2 * n)) for n in (1, 2, 4, 8)]
    rows += [step.replace("16,66961", f"{16 * n},{66961 * n}").replace("13.06", str(13.06 + n)) for n in (1, 2, 4, 8)]
    points = tmp_path / "points.csv"
    points.write_text("\n".join((header, *rows)) + "\n")
    assert 'name = "' in fitted(points)
