"""The command line: vLLM's names, clear refusals, everything else ignored with a log line."""

from __future__ import annotations

import json
import logging

import pytest

from paceline.errors import ConfigError
from paceline_worker.emulator.options import GIB, parse

NIXL = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


def test_without_flags_it_is_a_tiny_model_on_all_addresses() -> None:
    options = parse([], {})
    assert (options.port, options.served_names, options.profile.name) == (8000, ("tiny",), "tiny-cpu")
    assert options.max_model_len == 131_072
    assert options.kv_events is None
    assert options.side_channel is None


def test_the_first_served_name_is_the_one_in_answers() -> None:
    options = parse(["--served-model-name", "a", "b", "--lora-modules", "c=/x", '{"name":"d","path":"/y"}'], {})
    assert (options.served_names, options.loras) == (("a", "b"), ("c", "d"))


def test_the_profile_gives_sizes_and_flags_override_them() -> None:
    options = parse(["--profile", "qwen3-32b-h200-tp2", "--block-size", "32", "--max-num-seqs", "7"], {})
    assert options.kv_blocks == options.profile.kv_capacity_tokens // 32
    assert options.max_seqs == 7
    small = parse(["--num-gpu-blocks-override", "100", "--max-num-batched-tokens", "512"], {})
    assert (small.kv_blocks, small.max_model_len, small.max_batched_tokens) == (100, 1600, 512)


def test_flags_of_vllm_that_it_does_not_need_are_logged_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        options = parse(["--tensor-parallel-size", "8", "--port", "9", "--enforce-eager"], {})
    assert options.port == 9
    assert "--tensor-parallel-size 8 --enforce-eager" in caplog.text


def test_kv_events_are_off_unless_enabled() -> None:
    assert parse(["--kv-events-config", '{"enable_kv_cache_events": false}'], {}).kv_events is None
    events = parse(["--kv-events-config", '{"enable_kv_cache_events": true, "topic": "t"}'], {}).kv_events
    assert events is not None
    assert (events.topic, events.endpoint, events.buffer_steps) == ("t", "tcp://*:5557", 10_000)


def test_a_nixl_connector_opens_the_side_channel_of_the_environment() -> None:
    environment = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "10.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": "5999"}
    assert parse(["--kv-transfer-config", json.dumps(NIXL)], environment).side_channel == ("10.0.0.1", 5999)
    assert parse(["--kv-transfer-config", json.dumps(NIXL)], {}).side_channel == ("localhost", 5600)


def test_a_host_tier_comes_from_a_connector_inside_others() -> None:
    offload = {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": {"cpu_bytes_to_use": GIB}}
    multi = {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": [NIXL, offload]}}
    options = parse(["--kv-transfer-config", json.dumps(multi), "--profile", "qwen3-32b-h200-tp2"], {})
    assert options.side_channel is not None
    assert options.host_blocks == GIB // (262_144 * 16)
    assert parse(["--kv-offloading-size", "2", "--profile", "qwen3-32b-h200-tp2"], {}).host_blocks == 512


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--profile", "h100"], "engine profile 'h100' is not known"),
        (["--speed", "0"], "--speed is 0.0; it must be positive"),
        (["--max-model-len", "999999999"], "holds 131072 tokens"),
        (["--max-num-batched-tokens", "4", "--max-num-seqs", "8"], "at least --max-num-seqs (8)"),
        (["--kv-events-config", "{"], "--kv-events-config is not valid"),
        (["--kv-transfer-config", "[]"], "--kv-transfer-config is not valid"),
        (["--lora-modules", '{"path":"/x"}'], "has no name"),
    ],
)
def test_a_bad_flag_is_refused_by_name(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(flags, {})
    assert message in str(refused.value)


@pytest.mark.parametrize("port", ["x", "70000", "-1"])
def test_a_bad_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse([f"--port={port}"], {})
    assert end.value.code == 2
    assert "is not a port (0 to 65535)" in capsys.readouterr().err


def test_a_bad_side_channel_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="VLLM_NIXL_SIDE_CHANNEL_PORT is 'x'"):
        parse(["--kv-transfer-config", json.dumps(NIXL)], {"VLLM_NIXL_SIDE_CHANNEL_PORT": "x"})
