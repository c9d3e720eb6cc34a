"""Which engines could serve a model: a profile for each number of GPUs, and how far each can be trusted.

A profile of the file is used as it is. Where there is none for a number of GPUs, the nearest is carried over by an
estimate; where there is none at all, the estimate itself has to do. The search simulates each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from paceline.api.v1alpha1 import ModelDeployment, Parallelism, Toggle
from paceline.errors import ConfigError
from paceline.policy.resources import hardware_pools
from paceline.policy.scaling.estimate import estimate, rescale
from paceline.policy.scaling.hardware import find_gpu, find_model
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.physics import Engine, Gpu, Layout, Model, Precision
from paceline.policy.scaling.profiles import find_profile, get_profile, known_profiles

TENSOR_SIZES: Final = (1, 2, 4, 8)
"""Within one node; across nodes tensor parallelism waits for the network."""


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
    shape, gpu = find_model(md.spec.model.name), find_gpu(product)
    options = []
    for tensor in sizes:
        name = find_profile(md.spec.model.name, product, tensor)
        gpus = pool.accelerators and tensor * spread.pipeline * spread.data
        if name is not None and (plain or not pool.accelerators or gpus == tensor):
            known = get_profile(name)
            options.append(EngineOption(tensor, gpus, known, _basis(known)))
        elif shape is not None and gpu is not None and spread.pipeline == 1:
            made = _made(md.spec.model.name, product, _Shapes(shape, gpu, spread), tensor)
            options += [] if made is None else [made]
    if not options:
        raise ConfigError(
            f"{md.metadata.name}: nothing is known of {md.spec.model.name} on {product or 'this hardware'}, or it does "
            f"not fit. Choose an engine model with --engine-profile: {', '.join(sorted(known_profiles()))}; or measure "
            "one with `paceline calibrate`."
        )
    return options


def precision_of(model: str) -> Precision:
    """How a model's weights are stored, by its name."""
    name = model.lower()
    for mark, precision in (
        ("fp8", Precision.FP8),
        ("fp4", Precision.FP4),
        ("int4", Precision.INT4),
        ("awq", Precision.INT4),
        ("gptq", Precision.INT4),
        ("deepseek-v3", Precision.FP8),
        ("deepseek-r1", Precision.FP8),
        ("gpt-oss", Precision.FP4),
        ("kimi-k2", Precision.INT4),
    ):
        if mark in name:
            return precision
    return Precision.BF16


class _Shapes(NamedTuple):
    model: Model
    gpu: Gpu
    spread: Parallelism

    def engine(self, name: str, tensor: int, *, data: int) -> Engine:
        expert = self.spread.expert is Toggle.ENABLED
        layout = Layout(tensor=tensor, data=data, expert_parallel=expert, precision=precision_of(name))
        return Engine(self.model, self.gpu, layout)


def _made(model: str, product: str, shapes: _Shapes, tensor: int) -> EngineOption | None:
    """A layout without a profile of its own; None if the model does not fit."""
    near = sorted(TENSOR_SIZES, key=lambda size: (max(size, tensor) / min(size, tensor), size))
    known = next(((size, name) for size in near if (name := find_profile(model, product, size))), None)
    onto = shapes.engine(model, tensor, data=shapes.spread.data)
    gpus = onto.layout.gpus
    try:
        if known is not None:
            size, name = known
            profile = rescale(get_profile(name), shapes.engine(model, size, data=1), onto)
            return EngineOption(tensor, gpus, profile, Basis.CARRIED)
        return EngineOption(tensor, gpus, estimate(onto), Basis.ESTIMATED)
    except ConfigError:
        return None


def _basis(profile: EngineProfile) -> Basis:
    return Basis.FITTED if profile.estimate else Basis.MEASURED
