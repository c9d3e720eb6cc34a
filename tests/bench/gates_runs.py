"""The loads of the scaling gates, and runs of policies on them that are kept from one command to the next.

A run is kept under everything that its result depends on: the load, the policy, the settings, and the text of the
modules that it runs through. So a change of the planner runs only the planner again, a change of the engine model all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from paceline.api.v1alpha1 import load
from paceline.simulator.report import PolicyReport, policy_report
from paceline.simulator.scenario import settings_of
from paceline.simulator.settings import SimSettings
from paceline.simulator.shapes import SHAPES
from paceline.simulator.tuning import best_run
from paceline.simulator.workload import Workload
from paceline.traces.formats import read_trace
from paceline.traces.record import Trace

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = ROOT / "operator" / "paceline"
DATA: Final = Path(os.environ.get("PACELINE_DATA", ROOT.parent / "shared" / "data")) / "traces"
KEPT: Final = ROOT / "build" / "gates"
DAY_MINUTES: Final = 1440.0

MANIFEST: Final = b"""\
apiVersion: paceline.dev/v1alpha1
kind: ModelDeployment
metadata: {name: gates}
spec:
  model: {name: Qwen/Qwen3-32B}
  engine: {parallelism: {tensor: 2}}
  slo: {ttftMilliseconds: 2000, itlMilliseconds: 25}
  pools:
    prefill: {minReplicas: 1, maxReplicas: 64, accelerator: {product: NVIDIA-H200, count: 2}}
    decode: {minReplicas: 1, maxReplicas: 64, accelerator: {product: NVIDIA-H200, count: 2}}
"""
"""The objective of the gates. All that is not here is a default: pods start in 90 s (p50) to 180 s (p95), a change of
role takes 1 s.
"""


@dataclass(frozen=True, slots=True)
class Load:
    """A load by name, and how to make it."""

    name: str
    about: str
    make: Callable[[int], Workload]
    """From a seed."""
    most_seeds: int = 100
    """Fewer where one run takes many minutes."""
    baselines: bool = True
    """Whether the dynamic policies are tuned on it too."""


def settings(seed: int = 0) -> SimSettings:
    """What all gates are run with."""
    return settings_of(load(MANIFEST, "the gates' manifest"), profile=None, seed=seed)


def conversation(scale: float) -> Load:
    """The Mooncake conversation trace, ``scale`` copies at once."""
    return Load(
        f"conversation-{scale:g}x",
        f"Mooncake conversation trace, {scale:g} times the rate",
        lambda seed: Workload(_conversation(), rate_scale=scale, seed=seed),
    )


def azure(scale: float) -> Load:
    """The Azure conversation trace."""
    return Load(
        f"azure-conversation-{scale:g}x",
        f"Azure 2023 conversation trace, {scale:g} times the rate",
        lambda seed: Workload(_azure(), rate_scale=scale, seed=seed),
    )


def shaped(shape: str, scale: float, about: str) -> Load:
    """The conversation trace, made to vary, ``scale`` copies at once."""
    return Load(
        shape,
        f"conversation trace, {scale:g} times the rate, {about}",
        lambda seed: Workload(SHAPES[shape](_conversation(), seed), rate_scale=scale, seed=seed),
    )


def servegen_day(rate: float) -> Load:
    """A day of ServeGen's m-small at ``rate`` times its real rates.

    Not compressed into less time: pods would take as long to start as they do, and a burst of ten minutes be over. At a
    rate at which fleets have several engines of each role: the least fleet, one of each, nobody can go below.
    """
    return Load(
        "servegen-day",
        f"a day of ServeGen m-small, {rate:g} times its rate",
        lambda seed: Workload(_servegen(rate, seed), seed=seed),
        most_seeds=1,
        baselines=False,
    )


@cache
def _conversation() -> Trace:
    return read_trace(DATA / "mooncake_conversation_trace.jsonl.gz", "mooncake")


@cache
def _azure() -> Trace:
    return read_trace(DATA / "azure2023_conv.csv.gz", "azure")


@cache
def _servegen(rate: float, seed: int) -> Trace:
    path = DATA / "servegen_language_m-small.tar.gz"
    return read_trace(path, "servegen", minutes=DAY_MINUTES, generated_rate=rate, seed=seed)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as it is kept."""

    report: PolicyReport
    engines: tuple[int, int]
    """(prefill, decode) ready at the start: those of a static fleet."""
    wall_seconds: float


def run(load_: Load, policy: str, seed: int, say: Callable[[str], None] = lambda _: None) -> Kept:
    """The best form of a policy on a load: from what is kept, or simulated."""
    known = kept_run(load_, policy, seed)
    if known is not None:
        return known
    path = _path(load_, policy, seed)
    say(f"simulating {policy} on {load_.name}, seed {seed}")
    result = best_run(policy, load_.make(seed), settings(seed))
    first = result.samples[0]
    kept = Kept(
        report=policy_report(result),
        engines=(first.prefill.ready, first.decode.ready),
        wall_seconds=result.wall_seconds,
    )
    KEPT.mkdir(parents=True, exist_ok=True)
    for old in KEPT.glob(f"{load_.name}.{policy}.{seed}.*.json"):
        old.unlink()
    path.write_bytes(msgspec.json.encode(kept))
    return kept


def kept_run(load_: Load, policy: str, seed: int) -> Kept | None:
    """What is kept of a run by the code as it is; None if there is nothing."""
    path = _path(load_, policy, seed)
    return msgspec.json.decode(path.read_bytes(), type=Kept) if path.exists() else None


def _path(load_: Load, policy: str, seed: int) -> Path:
    return KEPT / f"{load_.name}.{policy}.{seed}.{_fingerprint(policy, load_)}.json"


def _fingerprint(policy: str, load_: Load) -> str:
    told = settings() if policy == "planner" else replace(settings(), scaling=None)
    digest = hashlib.sha256(f"{load_.about}\n{told}\n".encode())
    for path in _sources(policy):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources(policy: str) -> Sequence[Path]:
    """Modules that a run goes through: the simulator for all, a policy's own and how it is tuned for it."""
    simulator = PACKAGE / "simulator"
    own = simulator / "policies" / f"{policy.replace('-', '_')}.py"
    common = [
        *(simulator / f"{name}.py" for name in _SIMULATOR),
        *(PACKAGE / "policy" / name for name in _POLICY),
        simulator / "policies" / "base.py",
    ]
    if policy in ("static-best", "oracle"):
        common.append(simulator / "static_search.py")
    if policy == "oracle":
        common += [simulator / "oracle_search.py", own]
    elif own.exists():
        common += [own, simulator / "tuning.py"]
    if policy == "planner":
        common += sorted((PACKAGE / "policy" / "scaling").glob("*.py"))
    return common


_SIMULATOR: Final = (
    "engine", "router", "line", "prices", "cache", "chunks", "cluster", "simulation", "station", "workload",
    "telemetry", "shapes",
    "streams",
)  # fmt: skip
_POLICY: Final = (
    "roles.py",
    "overload.py",
    "waiting.py",
    "routing/crowding.py",
    "routing/pacing.py",
    "routing/backlog.py",
    "scaling/perfmodel.py",
    "scaling/decode_sizing.py",
)
