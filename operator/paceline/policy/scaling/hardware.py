"""The accelerators and models whose data sheets Paceline knows: ``hardware.toml``, read when it is first asked for.

Estimates from first principles look shapes up here; whoever knows a model that is not listed can pass its shape.
"""

from __future__ import annotations

import pkgutil
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from paceline.errors import ConfigError
from paceline.policy.scaling.physics import Gpu, Model

_FILE: Final = "hardware.toml"
_WORD: Final = re.compile(r"[a-z0-9]+")
_SUFFIXES: Final = re.compile(r"^meta-|-(instruct|chat|base|it|fp8|nvfp4|fp4|int4|awq|gptq|dynamic|quantized\.\w+)\b")

_Positive = Annotated[float, Meta(gt=0)]
_Count = Annotated[int, Meta(ge=1)]


class _GpuEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    bf16_tflops: _Positive
    fp8_tflops: _Positive | None = None
    fp4_tflops: _Positive | None = None
    memory_tbps: _Positive
    memory_gib: _Positive
    link_gbps: _Positive

    def gpu(self) -> Gpu:
        fp8 = self.fp8_tflops or self.bf16_tflops
        return Gpu(
            name=self.name,
            bf16_flops=self.bf16_tflops * 1e12,
            fp8_flops=fp8 * 1e12,
            # Where four bits have no units of their own they are computed in eight.
            fp4_flops=(self.fp4_tflops or fp8) * 1e12,
            memory_bandwidth=self.memory_tbps * 1e12,
            memory_bytes=self.memory_gib * 1024**3,
            link_bandwidth=self.link_gbps * 1e9,
        )


class _ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    parameters: _Positive
    active: _Positive | None = None
    layers: _Count
    hidden: _Count
    heads: _Count
    head_size: _Count
    kv_heads: _Count
    kv_values: _Count
    attention_layers: _Count
    experts: int = 0
    experts_per_token: int = 0
    latent: bool = False

    def model(self) -> Model:
        return Model(
            name=self.name,
            parameters=self.parameters * 1e9,
            active=(self.active or self.parameters) * 1e9,
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            head_size=self.head_size,
            kv_heads=self.kv_heads,
            kv_values=self.kv_values,
            attention_layers=self.attention_layers,
            experts=self.experts,
            experts_per_token=self.experts_per_token,
            latent=self.latent,
        )


class _Hardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gpu: tuple[_GpuEntry, ...]
    model: tuple[_ModelEntry, ...]


@cache
def gpus() -> Mapping[str, Gpu]:
    """By name, such as ``h200``."""
    return {entry.name: entry.gpu() for entry in _hardware().gpu}


@cache
def models() -> Mapping[str, Model]:
    """By :func:`short_name`, such as ``qwen3-32b``."""
    return {short_name(entry.name): entry.model() for entry in _hardware().model}


def find_gpu(product: str) -> Gpu | None:
    """The accelerator that a product name such as ``NVIDIA-H100-80GB-HBM3`` means; None if it is not known."""
    words = set(_WORD.findall(product.lower()))
    return next((gpu for name, gpu in gpus().items() if name in words), None)


def find_model(name: str) -> Model | None:
    """The shape of a model such as ``Qwen/Qwen3-32B-FP8``; None if it is not known."""
    return models().get(short_name(name))


def short_name(model: str) -> str:
    """A model's name without organisation, ``Meta-``, and suffixes that don't change its shape."""
    name, before = model.rsplit("/", 1)[-1].lower(), ""
    while name != before:
        before, name = name, _SUFFIXES.sub("", name)
    return name


def _hardware() -> _Hardware:
    text = pkgutil.get_data(__package__, _FILE)
    try:
        return msgspec.convert(tomllib.loads((text or b"").decode()), _Hardware)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{_FILE} of this installation is damaged: {error}.") from None
