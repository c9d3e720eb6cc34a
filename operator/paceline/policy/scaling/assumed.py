"""How fast engines are taken to be where nobody has measured them: carried over from another layout, or estimated.

Called by the planner's loop, so that a model of known shape on a known accelerator is planned for from the first
request on, and by ``paceline plan`` for the layouts that it tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from paceline.errors import ConfigError
from paceline.policy.scaling.estimate import estimate, rescale
from paceline.policy.scaling.hardware import find_gpu, find_model
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.physics import Engine, Layout, Precision
from paceline.policy.scaling.profiles import find_profile, get_profile

TENSOR_SIZES: Final = (1, 2, 4, 8)
"""Within one node; across nodes tensor parallelism waits for the network."""
_MARKS: Final = (
    ("fp8", Precision.FP8),
    ("fp4", Precision.FP4),
    ("int4", Precision.INT4),
    ("awq", Precision.INT4),
    ("gptq", Precision.INT4),
    ("deepseek-v3", Precision.FP8),
    ("deepseek-r1", Precision.FP8),
    ("gpt-oss", Precision.FP4),
    ("kimi-k2", Precision.INT4),
)


@dataclass(frozen=True, slots=True)
class Assumed:
    """A profile that was not measured."""

    profile: EngineProfile
    carried: bool
    """Whether it comes from a profile of another layout; else it is an estimate from data sheets."""


def assumed_profile(
    model: str, product: str, *, tensor: int, data: int = 1, expert_parallel: bool = False
) -> Assumed | None:
    """The best guess for engines of ``tensor`` x ``data`` accelerators; None if model or accelerator is not known, or
    the model does not fit.
    """
    shape, gpu = find_model(model), find_gpu(product)
    if shape is None or gpu is None or tensor < 1:
        return None

    def engine(tensor: int, data: int) -> Engine:
        layout = Layout(tensor=tensor, data=data, expert_parallel=expert_parallel, precision=precision_of(model))
        return Engine(shape, gpu, layout)

    near = sorted(TENSOR_SIZES, key=lambda size: (max(size, tensor) / min(size, tensor), size))
    known = next(((size, name) for size in near if (name := find_profile(model, product, size))), None)
    try:
        if known is not None:
            size, name = known
            return Assumed(rescale(get_profile(name), engine(size, 1), engine(tensor, data)), carried=True)
        return Assumed(estimate(engine(tensor, data)), carried=False)
    except ConfigError:
        return None


def precision_of(model: str) -> Precision:
    """How a model's weights are stored, by its name."""
    name = model.lower()
    return next((precision for mark, precision in _MARKS if mark in name), Precision.BF16)
