"""The engine profiles that Paceline knows by name, such as ``qwen3-32b-h200-tp2``: ``profiles.toml``, read when it is
first asked for.

The emulator's ``--profile``, the router's ``engineProfile``, the planner and the simulator look them up here. Each says
whether it was measured and where it comes from. What ``paceline calibrate`` measured on the engine itself goes before
them: wherever a profile is named its whole text may stand instead (:func:`profile_of`).
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
from paceline.policy.scaling.perfmodel import EngineProfile

TRANSFER_BYTES_PER_GPU: Final = 40e9
"""One 400 Gb/s NIC a GPU at 80%; an estimate."""
TRANSFER_SETUP_SECONDS: Final = 0.005
"""Handshake and descriptors of one NIXL transfer; an estimate."""
HOST_BYTES_PER_GPU: Final = 40e9
"""Host memory to one GPU over PCIe 5 x16 at about 60%; an estimate."""
MAX_SEQS: Final = 256
MAX_BATCHED_TOKENS: Final = 8192

MAX_TEXT: Final = 16_384
"""Characters of one profile; they have a thousand."""

_FILE: Final = "profiles.toml"
_WORD: Final = re.compile(r"[a-z0-9]+")
_MODEL_NOISE: Final = re.compile(r"^meta-|-(instruct|chat|base|it)\b")

_Coefficient = Annotated[float, Meta(ge=0)]
_Positive = Annotated[float, Meta(gt=0)]
_Count = Annotated[int, Meta(ge=1)]
_Text = Annotated[str, Meta(min_length=1, max_length=1024)]


class ProfileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[profile]]`` of a profiles file. The head of ``profiles.toml`` says what the fields mean."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=128)]
    model: _Text
    accelerator: _Text
    tensor_parallel: _Count
    prefill_ms: tuple[_Coefficient, _Coefficient, _Coefficient]
    step_ms: tuple[_Positive, _Coefficient, _Coefficient]
    kv_capacity_tokens: _Count
    kv_bytes_per_token: _Count
    max_seqs: _Count = MAX_SEQS
    max_batched_tokens: _Count = MAX_BATCHED_TOKENS
    host_tier_tokens: Annotated[int, Meta(ge=0)] = 0
    transfer_bandwidth: _Positive | None = None
    transfer_setup: _Coefficient = TRANSFER_SETUP_SECONDS
    host_bandwidth: _Positive | None = None
    estimate: bool
    provenance: _Text

    def profile(self) -> EngineProfile:
        """The profile, in seconds."""
        prefill, step = self.prefill_ms, self.step_ms
        return EngineProfile(
            name=self.name,
            model=self.model,
            accelerator=self.accelerator,
            tensor_parallel=self.tensor_parallel,
            prefill_base=prefill[0] / 1e3,
            prefill_token=prefill[1] / 1e3,
            prefill_attention=prefill[2] / 1e3,
            step_base=step[0] / 1e3,
            step_sequence=step[1] / 1e3,
            step_context=step[2] / 1e3,
            kv_capacity_tokens=self.kv_capacity_tokens,
            kv_bytes_per_token=self.kv_bytes_per_token,
            max_seqs=self.max_seqs,
            max_batched_tokens=self.max_batched_tokens,
            host_tier_tokens=self.host_tier_tokens,
            transfer_bandwidth=self.transfer_bandwidth or TRANSFER_BYTES_PER_GPU * self.tensor_parallel,
            transfer_setup=self.transfer_setup,
            host_bandwidth=self.host_bandwidth or HOST_BYTES_PER_GPU * self.tensor_parallel,
            estimate=self.estimate,
            provenance=self.provenance,
        )


class _Profiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    profile: Annotated[tuple[ProfileEntry, ...], Meta(max_length=1000)]


@cache
def known_profiles() -> Mapping[str, EngineProfile]:
    """By name, in the order of the file. Raises ConfigError if the file that came with the package is damaged."""
    return read_profiles((pkgutil.get_data(__package__, _FILE) or b"").decode(), _FILE)


def read_profiles(text: str, source: str) -> dict[str, EngineProfile]:
    """Profiles of a TOML document. ``source`` names it in messages. Raises ConfigError, which names the field."""
    try:
        entries = msgspec.convert(tomllib.loads(text), _Profiles).profile
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{source}: not valid engine profiles: {error}.") from None
    profiles = {entry.name: entry.profile() for entry in entries}
    if len(profiles) < len(entries):
        raise ConfigError(f"{source}: two engine profiles have the same name.")
    return profiles


def get_profile(name: str) -> EngineProfile:
    """The profile of that name. Raises ConfigError, which lists the known ones."""
    try:
        return known_profiles()[name]
    except KeyError:
        known = ", ".join(sorted(known_profiles()))
        raise ConfigError(f"engine profile {name!r} is not known. Known profiles: {known}.") from None


def profile_of(text: str, source: str) -> EngineProfile:
    """The profile that ``text`` names, or is: a TOML document with one profile, as ``paceline calibrate`` writes it.

    ``source`` says in messages where the text stands. Raises ConfigError.
    """
    if "=" not in text:  # no name has one, every document does
        try:
            return get_profile(text)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{source}: {len(text)} characters are too many for one engine profile; at most {MAX_TEXT}.")
    profiles = list(read_profiles(text, source).values())
    if len(profiles) != 1:
        raise ConfigError(f"{source}: holds {len(profiles)} engine profiles; leave the one that is meant.")
    return profiles[0]


def find_profile(model: str, product: str, tensor_parallel: int) -> str | None:
    """Name of the profile for a model (``Qwen/Qwen3-32B``), an accelerator product (``NVIDIA-H200``) and a TP size.

    None if there is none. Organisation, ``Meta-`` and suffixes such as ``-Instruct`` don't matter, quantisation
    (``-FP8``) does.
    """
    wanted = _MODEL_NOISE.sub("", model.rsplit("/", 1)[-1].lower())
    words = set(_WORD.findall(product.lower()))
    for profile in known_profiles().values():
        if (
            profile.model.lower() == wanted
            and profile.accelerator in words
            and profile.tensor_parallel == tensor_parallel
        ):
            return profile.name
    return None
