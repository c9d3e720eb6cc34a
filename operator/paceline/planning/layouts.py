"""Which engines could serve a model: a profile for each number of GPUs, and how far each can be trusted.

A profile of the file is used as it is. Where there is none for a number of GPUs, the nearest is carried over by an
estimate; where there is none at all, the estimate itself has to do. The search simulates each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from paceline.api.v1alpha1 import ModelDeployment, Toggle
from paceline.errors import ConfigError
from paceline.policy.resources import hardware_pools
from paceline.policy.scaling.assumed import TENSOR_SIZES, assumed_profile
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.profiles import find_profile, get_profile, known_profiles


class Basis(StrEnum):
    """Where a profile comes from, best first."""

    MEASURED = "measured"
    FITTED = "fitted to a table"
    CARRIED = "carried over from another layout"
    ESTIMATED = "estimated from data sheets"


ERROR: Final = {Basis.MEASURED: 0.05, Basis.FITTED: 0.10, Basis.CARRIED: 0.15, Basis.ESTIMATED: 0.30}
"""By how much times may be off, as a share: about the errors of docs/reference/perfmodel.md for a point, a layout and a
family that were not measured, rounded up."""


@dataclass(frozen=True, slots=True)
class EngineOption:
    """One way to build an engine."""

    tensor: int
    gpus: int
    """Accelerators of one engine; 0 on CPUs."""
    profile: EngineProfile
    basis: Basis

    @property
    def error(self) -> float:
        """By how much its times may be off, as a share."""
        return ERROR[self.basis]


def engine_options(md: ModelDeployment, *, profile: EngineProfile | None) -> list[EngineOption]:
    """Layouts that can be tried for ``md``, smallest first. ``profile`` is the only engine model there is to be.

    Raises ConfigError if nothing is known of the model on its hardware.
    """
    pool = hardware_pools(md.spec)[0]
    product, spread = pool.accelerator.product or "", pool.parallelism
    if profile is not None:
        gpus = pool.accelerators and profile.tensor_parallel
        return [EngineOption(profile.tensor_parallel, gpus, profile, _basis(profile))]
    # Pipelines, data parallel ranks and several nodes are somebody's decision: they stay as they are.
    plain = spread.accelerators == spread.tensor and 0 < spread.tensor <= pool.accelerator.count
    sizes = sorted({*TENSOR_SIZES, spread.tensor}) if plain else [spread.tensor]
    options = []
    for tensor in sizes:
        name = find_profile(md.spec.model.name, product, tensor)
        gpus = pool.accelerators and tensor * spread.pipeline * spread.data
        if name is not None and (plain or not pool.accelerators or gpus == tensor):
            known = get_profile(name)
            options.append(EngineOption(tensor, gpus, known, _basis(known)))
        elif spread.pipeline == 1:
            expert = spread.expert is Toggle.ENABLED
            made = assumed_profile(md.spec.model.name, product, tensor=tensor, data=spread.data, expert_parallel=expert)
            if made is not None:
                basis = Basis.CARRIED if made.carried else Basis.ESTIMATED
                options.append(EngineOption(tensor, tensor * spread.data, made.profile, basis))
    if not options:
        raise ConfigError(
            f"{md.metadata.name}: nothing is known of {md.spec.model.name} on {product or 'this hardware'}, or it does "
            f"not fit. Choose an engine model with --engine-profile: {', '.join(sorted(known_profiles()))}; or measure "
            "one with `paceline calibrate`."
        )
    return options


def _basis(profile: EngineProfile) -> Basis:
    return Basis.FITTED if profile.estimate else Basis.MEASURED
