"""From measured points to an engine profile, and to the text that others can use it by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from paceline.errors import ConfigError
from paceline.planning.points import Points
from paceline.policy.scaling.fit import Fit, fit_prefill, fit_step, with_prefill, with_step
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.profiles import MAX_BATCHED_TOKENS, MAX_SEQS, TRANSFER_SETUP_SECONDS

LEAST_POINTS: Final = 4
"""Of a kind: one more than it has coefficients, so that there is an error to report."""
LEAST_SPREAD: Final = 4.0
"""Largest load over smallest load: nearer together, a line is drawn by the noise."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The profile, and how well it describes what was measured. A fit is None where there were no points."""

    profile: EngineProfile
    prefill: Fit | None
    step: Fit | None


def calibrate(points: Points, start: EngineProfile, *, name: str, provenance: str) -> Calibration:
    """Fit both models. What was not measured stays as in ``start``, and then the profile remains an estimate.

    Raises ConfigError for points that are too few, or all at the same load.
    """
    profile, prefill, step = replace(start, name=name), None, None
    if points.prefills:
        _enough("prefill", [point.new_tokens for point in points.prefills], "new_tokens")
        prefill = fit_prefill(points.prefills)
        profile = with_prefill(profile, prefill)
    if points.steps:
        _enough("step", [point.sequences for point in points.steps], "sequences")
        step = fit_step(points.steps)
        if not step.coefficients[0]:
            raise ConfigError(
                "the step points make a step cost nothing when its batch is small: measure batches of 1 to 4 too."
            )
        profile = with_step(profile, step)
    complete = prefill is not None and step is not None
    said = provenance if complete else f"{provenance}; the rest is that of {start.name}: {start.provenance}"
    return Calibration(replace(profile, estimate=not complete, provenance=said), prefill, step)


def sentences(calibration: Calibration) -> Iterator[str]:
    """How well the fits describe the points."""
    for what, fit in (("prefill", calibration.prefill), ("decode step", calibration.step)):
        if fit is None:
            yield f"{what}: not measured."
            continue
        outliers = f", {fit.outliers} outliers hardly counted" if fit.outliers else ""
        yield (
            f"{what}: {len(fit.errors)} points, error of the fit {100 * fit.median_error:.1f}% (median), "
            f"{100 * fit.p90_error:.1f}% (90th percentile){outliers}."
        )


def entry_text(profile: EngineProfile) -> str:
    """The profile as a ``[[profile]]`` of a profiles file."""

    def three(values: Sequence[float]) -> str:
        return "[" + ", ".join(f"{1000 * value:.7g}" for value in values) + "]"

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [
        "[[profile]]",
        f"name = {quoted(profile.name)}",
        f"model = {quoted(profile.model)}",
        f"accelerator = {quoted(profile.accelerator)}",
        f"tensor_parallel = {profile.tensor_parallel}",
        f"prefill_ms = {three((profile.prefill_base, profile.prefill_token, profile.prefill_attention))}",
        f"step_ms = {three((profile.step_base, profile.step_sequence, profile.step_context))}",
        f"kv_capacity_tokens = {profile.kv_capacity_tokens}",
        f"kv_bytes_per_token = {profile.kv_bytes_per_token}",
    ]
    for field, usual in (("max_seqs", MAX_SEQS), ("max_batched_tokens", MAX_BATCHED_TOKENS), ("host_tier_tokens", 0)):
        if getattr(profile, field) != usual:
            lines.append(f"{field} = {getattr(profile, field)}")
    lines.append(f"transfer_bandwidth = {profile.transfer_bandwidth:.6g}")
    if profile.transfer_setup != TRANSFER_SETUP_SECONDS:
        lines.append(f"transfer_setup = {profile.transfer_setup:g}")
    lines.append(f"host_bandwidth = {profile.host_bandwidth:.6g}")
    lines.append(f"estimate = {str(profile.estimate).lower()}")
    lines.append(f"provenance = {quoted(profile.provenance)}")
    return "\n".join(lines) + "\n"


def _enough(kind: str, loads: Sequence[float], column: str) -> None:
    if len(loads) < LEAST_POINTS:
        raise ConfigError(f"{len(loads)} {kind} points are too few for a fit; at least {LEAST_POINTS}.")
    if max(loads) < LEAST_SPREAD * min(loads):
        raise ConfigError(
            f"the {kind} points have {column} from {min(loads):g} to {max(loads):g}; a fit needs the largest to be at "
            f"least {LEAST_SPREAD:g} times the smallest."
        )
