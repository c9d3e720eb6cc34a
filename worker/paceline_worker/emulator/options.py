"""The emulator's command line: vLLM's flag names for what it supports, a log line for what it does not."""

from __future__ import annotations

import argparse
import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from paceline.errors import ConfigError
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.profiles import profile_of
from paceline.unreadable import UNREADABLE

log = logging.getLogger(__name__)

DEFAULT_PROFILE: Final = "tiny-cpu"
DEFAULT_MAX_MODEL_LEN: Final = 131_072
"""If the KV cache holds that much; else what it holds."""
DEFAULT_SIDE_CHANNEL_PORT: Final = 5600
DEFAULT_LEASE_SECONDS: Final = 120.0
"""How long a prefill engine keeps blocks that nobody fetches; vLLM's ``kv_lease_duration`` with its renewals."""
GIB: Final = 1024**3

T = TypeVar("T")


class KvEvents(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's ``--kv-events-config``, with its defaults."""

    enable_kv_cache_events: bool = False
    publisher: str = "zmq"
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    buffer_steps: int = 10_000
    hwm: int = 100_000
    max_queue_size: int = 100_000
    topic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that one emulator process needs to know."""

    host: str
    port: int
    model: str
    served_names: tuple[str, ...]
    loras: tuple[str, ...]
    profile: EngineProfile
    speed: float
    seed: int
    max_model_len: int
    block_size: int
    kv_blocks: int
    host_blocks: int
    max_seqs: int
    max_batched_tokens: int
    prefix_caching: bool
    kv_events: KvEvents | None
    side_channel: tuple[str, int] | None
    """Where other engines fetch KV blocks from; None without a NIXL connector."""
    kv_lease_seconds: float
    prompt_tokens_details: bool
    faults: bool
    tls: tuple[Path, Path, Path | None] | None = None
    """Certificate, key, and the authority whose certificates clients need."""


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read flags and environment. Raises ConfigError; ``--help`` exits."""
    flags, ignored = _parser().parse_known_args(arguments)
    if ignored:
        log.info("flags that the emulator does not need are ignored: %s", " ".join(ignored))
    profile = profile_of(flags.profile, "--profile")
    if not flags.speed > 0:
        raise ConfigError(f"--speed is {flags.speed}; it must be positive (1 is real time).")
    transfer = _document("--kv-transfer-config", flags.kv_transfer_config, dict[str, Any])
    kv_blocks = flags.num_gpu_blocks_override or profile.kv_capacity_tokens // flags.block_size
    capacity = kv_blocks * flags.block_size
    max_model_len = flags.max_model_len or min(DEFAULT_MAX_MODEL_LEN, capacity)
    if max_model_len > capacity:
        raise ConfigError(
            f"--max-model-len is {max_model_len}, but the KV cache of profile {profile.name} holds {capacity} tokens. "
            f"Set it to {capacity} or less, or choose a larger profile."
        )
    max_seqs = flags.max_num_seqs or profile.max_seqs
    max_batched = flags.max_num_batched_tokens or max(profile.max_batched_tokens, max_seqs)
    if max_batched < max_seqs:
        raise ConfigError(
            f"--max-num-batched-tokens is {max_batched}; it must be at least --max-num-seqs ({max_seqs})."
        )
    events = _document("--kv-events-config", flags.kv_events_config, KvEvents)
    return Options(
        host=flags.host,
        port=flags.port,
        model=flags.model,
        served_names=tuple(flags.served_model_name or (flags.model,)),
        loras=tuple(_lora_name(text) for text in flags.lora_modules),
        profile=profile,
        speed=flags.speed,
        seed=flags.seed,
        max_model_len=max_model_len,
        block_size=flags.block_size,
        kv_blocks=kv_blocks,
        host_blocks=_host_blocks(transfer, flags, profile),
        max_seqs=max_seqs,
        max_batched_tokens=max_batched,
        prefix_caching=flags.enable_prefix_caching,
        kv_events=events if events and events.enable_kv_cache_events and events.publisher == "zmq" else None,
        side_channel=_side_channel(transfer, environment),
        kv_lease_seconds=_lease_seconds(transfer),
        prompt_tokens_details=flags.enable_prompt_tokens_details,
        faults=flags.enable_faults,
        tls=_tls(flags),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m paceline_worker.emulator",
        description="An engine with vLLM's API, modelled time and made-up text.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104  as vLLM does
    parser.add_argument("--port", type=_port, default=8000, help="0 takes a free one and logs it")
    parser.add_argument("--model", default="tiny", help="model path or name; only its name matters here")
    parser.add_argument("--served-model-name", nargs="+", help="names that requests may use; the first is in answers")
    parser.add_argument("--lora-modules", nargs="+", default=[], help="name=path or JSON; the names are served")
    parser.add_argument("--max-model-len", type=_positive, help="longest prompt and output together, in tokens")
    parser.add_argument("--block-size", type=_positive, default=16, help="tokens a KV block")
    parser.add_argument("--num-gpu-blocks-override", type=_positive, help="KV blocks, instead of the profile's")
    parser.add_argument("--max-num-seqs", type=_positive, help="sequences a batch, instead of the profile's")
    parser.add_argument("--max-num-batched-tokens", type=_positive, help="tokens a step, instead of the profile's")
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--enable-prompt-tokens-details", action="store_true", help="cached tokens in usage")
    parser.add_argument("--kv-offloading-size", type=float, default=0.0, help="host tier in GiB")
    parser.add_argument("--kv-events-config", help="JSON, as vLLM's")
    parser.add_argument("--kv-transfer-config", help="JSON, as vLLM's; NixlConnector turns transfers on")
    parser.add_argument("--seed", type=int, default=0, help="changes what is said")
    parser.add_argument("--profile", default=DEFAULT_PROFILE, help="engine profile, such as qwen3-32b-h200-tp2")
    parser.add_argument("--speed", type=float, default=1.0, help="10: all modelled time passes ten times faster")
    parser.add_argument("--ssl-certfile", type=Path, help="serve HTTPS; renewed files are read")
    parser.add_argument("--ssl-keyfile", type=Path)
    parser.add_argument("--ssl-ca-certs", type=Path)
    parser.add_argument("--ssl-cert-reqs", type=int, choices=(0, 1, 2), default=0, help="2: clients need a certificate")
    parser.add_argument("--enable-ssl-refresh", action="store_true", help="always so here")
    parser.add_argument("--enable-faults", action="store_true", help="accept POST /emulator/faults")
    return parser


def _tls(flags: argparse.Namespace) -> tuple[Path, Path, Path | None] | None:
    if flags.ssl_certfile is None:
        return None
    if flags.ssl_keyfile is None:
        raise ConfigError("--ssl-keyfile: missing; --ssl-certfile needs it.")
    required = flags.ssl_cert_reqs == ssl.CERT_REQUIRED
    if required and flags.ssl_ca_certs is None:
        raise ConfigError("--ssl-ca-certs: missing; --ssl-cert-reqs 2 needs it.")
    return flags.ssl_certfile, flags.ssl_keyfile, flags.ssl_ca_certs if required else None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def _document(flag: str, text: str | None, kind: type[T]) -> T | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except UNREADABLE as error:
        raise ConfigError(f"{flag} is not valid: {error}") from None


def _lora_name(text: str) -> str:
    if not text.startswith("{"):
        return text.partition("=")[0]
    module = _document("--lora-modules", text, dict[str, Any]) or {}
    if not isinstance(module.get("name"), str):
        raise ConfigError(f"--lora-modules: {text} has no name")
    return str(module["name"])


def _connectors(transfer: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The connectors of a transfer configuration by name, those inside a MultiConnector too."""
    if not transfer:
        return {}
    extra = transfer.get("kv_connector_extra_config") or {}
    found = {str(transfer.get("kv_connector")): extra}
    for nested in extra.get("connectors", ()) if isinstance(extra, dict) else ():
        found |= _connectors(nested)
    return found


def _side_channel(transfer: dict[str, Any] | None, environment: Mapping[str, str]) -> tuple[str, int] | None:
    if "NixlConnector" not in _connectors(transfer):
        return None
    port = environment.get("VLLM_NIXL_SIDE_CHANNEL_PORT", str(DEFAULT_SIDE_CHANNEL_PORT))
    if not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"VLLM_NIXL_SIDE_CHANNEL_PORT is {port!r}; it must be a port.")
    return environment.get("VLLM_NIXL_SIDE_CHANNEL_HOST", "localhost"), int(port)


def _lease_seconds(transfer: dict[str, Any] | None) -> float:
    seconds = _connectors(transfer).get("NixlConnector", {}).get("kv_lease_duration", DEFAULT_LEASE_SECONDS)
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise ConfigError(f"kv_lease_duration in --kv-transfer-config is {seconds!r}; it must be a positive number.")
    return float(seconds)


def _host_blocks(transfer: dict[str, Any] | None, flags: argparse.Namespace, profile: EngineProfile) -> int:
    """Size of the host tier: vLLM's flag or its OffloadingConnector; the profile's when neither is given."""
    block_bytes = profile.kv_bytes_per_token * flags.block_size
    if flags.kv_offloading_size > 0:
        return int(flags.kv_offloading_size * GIB / block_bytes)
    offloading = _connectors(transfer).get("OffloadingConnector")
    if offloading is None:
        return profile.host_tier_tokens // int(flags.block_size)
    if "cpu_bytes_to_use" in offloading:
        return int(offloading["cpu_bytes_to_use"] / block_bytes)
    return int(offloading.get("num_cpu_blocks", 0))
