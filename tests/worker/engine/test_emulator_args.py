"""The emulator's command line."""

from __future__ import annotations

import json
from dataclasses import replace

from paceline.api import wire
from paceline_worker.engine.emulator_args import emulator_plan
from tests.worker.engine.support import engine_settings


def test_the_emulator_gets_vllms_flags_and_its_own():
    settings = replace(engine_settings(), emulator_profile="tiny-cpu", emulator_speed=2.0, bind_host="127.0.0.1")
    made = emulator_plan(settings, python="python")
    assert made.argv[:7] == ("python", "-m", "paceline_worker.emulator", "--host", "127.0.0.1", "--port", "8000")
    assert made.argv[made.argv.index("--profile") + 1] == "tiny-cpu"
    assert made.argv[made.argv.index("--speed") + 1] == "2"
    assert json.loads(made.argv[made.argv.index("--kv-events-config") + 1])["topic"] == "kv@chat-engine-0@model-8b"
    assert made.env == {"VLLM_NIXL_SIDE_CHANNEL_HOST": "10.0.0.7", "VLLM_NIXL_SIDE_CHANNEL_PORT": "5600"}
    assert made.serves_api


def test_the_emulator_publishes_its_cache_events_on_its_own_address_only():
    argv = emulator_plan(replace(engine_settings(), bind_host="127.0.3.4"), python="python").argv
    events = json.loads(argv[argv.index("--kv-events-config") + 1])
    assert (events["endpoint"], events["replay_endpoint"]) == ("tcp://127.0.3.4:20080", "tcp://127.0.3.4:21080")


def test_without_a_profile_the_emulator_chooses_its_own():
    assert "--profile" not in emulator_plan(engine_settings(), python="python").argv


def test_adapters_are_names_that_the_emulator_also_answers_to():
    adapters = (wire.LoraAdapter(name="legal", path="/adapters/legal"),)
    argv = emulator_plan(engine_settings(lora_adapters=adapters), python="python").argv
    assert json.loads(argv[argv.index("--lora-modules") + 1])["name"] == "legal"


def test_parallelism_and_memory_shares_mean_nothing_to_it():
    argv = emulator_plan(engine_settings(parallelism=wire.Parallelism(tensor=8)), python="python").argv
    assert "--tensor-parallel-size" not in argv
    assert "--gpu-memory-utilization" not in argv


def test_without_connector_and_events_nothing_is_transferred_or_published():
    made = emulator_plan(engine_settings(connector=wire.ConnectorKind.NONE, kv_events=False), python="python")
    assert not {"--kv-transfer-config", "--kv-events-config"} & set(made.argv)
    assert not made.env


def test_the_users_own_arguments_come_last():
    argv = emulator_plan(engine_settings(extra_args=("--max-num-seqs", "8")), python="python").argv
    assert argv[-2:] == ("--max-num-seqs", "8")
