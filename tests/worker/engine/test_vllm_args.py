"""vLLM's command line, flag by flag. ``tests/vllm/test_arguments.py`` shows that vLLM itself accepts such plans."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paceline.api import wire
from paceline_worker.engine.launch import LaunchPlan
from paceline_worker.engine.settings import NodeGroup
from paceline_worker.engine.vllm_args import vllm_plan
from tests.worker.engine.support import engine_settings

GIB = 1 << 30


def plan(group: NodeGroup | None = None, **changes: Any) -> LaunchPlan:
    return vllm_plan(engine_settings(group, **changes), python="python", run_directory="/run/engine")


def flag(made: LaunchPlan, name: str) -> str:
    """Value of a flag that must be there once."""
    assert made.argv.count(name) == 1, f"{name} is there {made.argv.count(name)} times"
    return made.argv[made.argv.index(name) + 1]


def transfer(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(flag(plan(**changes), "--kv-transfer-config"))
    return document


def test_one_gpu_is_started_with_exactly_this():
    events = (
        '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://*:20080",'
        '"replay_endpoint":"tcp://*:21080","topic":"kv@chat-engine-0@model-8b"}'
    )
    connector = '{"kv_connector":"NixlConnector","kv_role":"kv_both","kv_load_failure_policy":"recompute"}'
    made = plan()
    assert made.argv == (
        *("python", "-m", "vllm.entrypoints.openai.api_server", "--model", "org/model-8b"),
        *("--host", "0.0.0.0", "--port", "8000", "--disable-access-log-for-endpoints", "/health,/metrics"),
        *("--served-model-name", "model-8b"),
        *("--scheduling-policy", "priority", "--enable-prefix-caching", "--gpu-memory-utilization", "0.90"),
        *("--kv-events-config", events, "--kv-transfer-config", connector),
    )
    assert made.env == {"VLLM_NIXL_SIDE_CHANNEL_HOST": "10.0.0.7", "VLLM_NIXL_SIDE_CHANNEL_PORT": "5600"}
    assert made.default_env == {"VLLM_NO_USAGE_STATS": "1"}
    assert made.serves_api


def test_a_cpu_engine_sizes_its_cache_by_the_host_tier_and_names_no_gpu_memory():
    cpu = wire.Accelerators(count=0)
    made = plan(accelerators=cpu, kv_cache=wire.KvCache(host_gib=2, disk_gib=5))
    assert "--gpu-memory-utilization" not in made.argv
    assert made.default_env["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert made.default_env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert plan(accelerators=cpu).default_env["VLLM_CPU_KVCACHE_SPACE"] == "4"
    # The main cache is host memory already, and vLLM's tiers below it need an accelerator.
    assert json.loads(flag(made, "--kv-transfer-config"))["kv_connector"] == "NixlConnector"


@pytest.mark.parametrize(
    ("parallelism", "flags"),
    [
        ({"tensor": 4}, ["--tensor-parallel-size", "4"]),
        ({"pipeline": 2}, ["--pipeline-parallel-size", "2"]),
        ({"data": 8, "expert": True}, ["--data-parallel-size", "8", "--enable-expert-parallel"]),
        ({"tensor": 2, "pipeline": 2}, ["--tensor-parallel-size", "2", "--pipeline-parallel-size", "2"]),
    ],
)
def test_parallelism_within_a_pod(parallelism: dict[str, Any], flags: list[str]):
    argv = plan(parallelism=wire.Parallelism(**parallelism)).argv
    start = argv.index(flags[0])
    assert list(argv[start : start + len(flags)]) == flags
    unused = {"--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size", "--nnodes"} - set(flags)
    assert not unused & set(argv)


def test_the_leader_of_several_nodes_serves_the_api():
    group = NodeGroup(index=0, size=2, leader_address="engine-0.engine")
    made = plan(group, parallelism=wire.Parallelism(tensor=8, pipeline=2, nodes=2))
    assert made.serves_api
    assert flag(made, "--nnodes") == "2"
    assert flag(made, "--node-rank") == "0"
    assert flag(made, "--master-addr") == "engine-0.engine"
    assert flag(made, "--distributed-executor-backend") == "mp"
    assert made.env["VLLM_HOST_IP"] == "10.0.0.7"
    assert "--headless" not in made.argv


def test_a_follower_computes_without_an_api():
    group = NodeGroup(index=1, size=2, leader_address="engine-0.engine")
    made = plan(group, parallelism=wire.Parallelism(tensor=8, pipeline=2, nodes=2))
    assert not made.serves_api
    assert made.argv[:6] == ("python", "-m", "vllm.entrypoints.cli.main", "serve", "org/model-8b", "--headless")
    assert flag(made, "--node-rank") == "1"
    assert "--port" not in made.argv


def test_without_a_connector_and_tiers_nothing_is_transferred():
    made = plan(connector=wire.ConnectorKind.NONE)
    assert "--kv-transfer-config" not in made.argv
    assert not made.env


def test_without_events_none_are_published():
    assert "--kv-events-config" not in plan(kv_events=False).argv


def test_a_host_tier_alone_needs_no_multi_connector():
    document = transfer(connector=wire.ConnectorKind.NONE, kv_cache=wire.KvCache(host_gib=64))
    assert document == {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"cpu_bytes_to_use": 64 * GIB},
        "kv_load_failure_policy": "recompute",
    }


def test_tiers_come_after_the_connector_between_engines_from_near_to_far():
    shared = wire.SharedTier(kind=wire.SharedTierKind.MOONCAKE, endpoint="mooncake:50051")
    cache = wire.KvCache(host_gib=64, disk_gib=500, disk_path="/kv", shared=shared)
    document = transfer(kv_cache=cache)
    assert document["kv_connector"] == "MultiConnector"
    assert document["kv_load_failure_policy"] == "recompute"
    children = document["kv_connector_extra_config"]["connectors"]
    names = ["NixlConnector", "OffloadingConnector", "SimpleCPUOffloadConnector", "MooncakeStoreConnector"]
    assert [child["kv_connector"] for child in children] == names
    assert {child["kv_role"] for child in children} == {"kv_both"}
    disk = children[2]["kv_connector_extra_config"]
    assert disk == {"kv_offload_backend": "disk", "disk_path": "/kv", "disk_capacity_bytes": 500 * GIB}


@pytest.mark.parametrize(
    ("endpoint", "url"), [("cache:65432", "lm://cache:65432"), ("redis://cache:6379", "redis://cache:6379")]
)
def test_lmcache_finds_its_server_through_the_environment(endpoint: str, url: str):
    shared = wire.SharedTier(kind=wire.SharedTierKind.LMCACHE, endpoint=endpoint)
    made = plan(kv_cache=wire.KvCache(shared=shared))
    children = json.loads(flag(made, "--kv-transfer-config"))["kv_connector_extra_config"]["connectors"]
    assert children[1]["kv_connector"] == "LMCacheConnectorV1"
    assert made.default_env["LMCACHE_REMOTE_URL"] == url
    assert made.default_env["PYTHONHASHSEED"] == "0"
    assert not made.files


@pytest.mark.parametrize(("count", "protocol"), [(8, "rdma"), (0, "tcp")])
def test_mooncake_finds_its_server_through_a_file(count: int, protocol: str):
    shared = wire.SharedTier(kind=wire.SharedTierKind.MOONCAKE, endpoint="mooncake:50051")
    made = plan(kv_cache=wire.KvCache(shared=shared), accelerators=wire.Accelerators(count=count))
    path = made.default_env["MOONCAKE_CONFIG_PATH"]
    assert path.startswith("/run/engine/")
    written = json.loads(made.files[path])
    assert written["master_server_address"] == "mooncake:50051"
    assert written["protocol"] == protocol


def test_adapters_are_loaded_under_their_names():
    adapters = tuple(wire.LoraAdapter(name=f"a={number}", path=f"/adapters/{number}") for number in range(2))
    argv = plan(lora_adapters=adapters).argv
    start = argv.index("--lora-modules") + 1
    assert [json.loads(text) for text in argv[start : start + 2]] == [
        {"name": "a=0", "path": "/adapters/0"},
        {"name": "a=1", "path": "/adapters/1"},
    ]
    assert "--enable-lora" in argv
    assert argv[argv.index("--max-loras") + 1] == "2"


def test_more_adapters_than_slots_take_turns():
    adapters = tuple(wire.LoraAdapter(name=f"a{number}", path="/a") for number in range(20))
    assert flag(plan(lora_adapters=adapters), "--max-loras") == "8"


def test_a_pinned_revision_and_several_served_names():
    source = wire.ModelSource(kind=wire.SourceKind.HUGGING_FACE, reference="org/model-8b", revision="abc123")
    made = plan(source=source, served_names=("chat", "chat-large"), max_model_len=32768)
    assert flag(made, "--revision") == "abc123"
    assert flag(made, "--max-model-len") == "32768"
    start = made.argv.index("--served-model-name") + 1
    assert made.argv[start : start + 2] == ("chat", "chat-large")


def test_a_local_checkpoint_is_never_looked_up_on_the_network():
    made = plan(source=wire.ModelSource(kind=wire.SourceKind.LOCAL, reference="/models/8b"))
    assert flag(made, "--model") == "/models/8b"
    assert made.default_env["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in plan().default_env


def test_ports_of_the_configuration_are_used():
    ports = wire.EnginePorts(api=8100, kv_side_channel=5700, kv_events=20100, kv_replay=21100)
    made = plan(ports=ports)
    assert flag(made, "--port") == "8100"
    assert made.env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "5700"
    events = json.loads(flag(made, "--kv-events-config"))
    assert (events["endpoint"], events["replay_endpoint"]) == ("tcp://*:20100", "tcp://*:21100")


def test_the_users_own_arguments_come_last_so_that_they_win():
    argv = plan(extra_args=("--max-num-seqs", "64", "--scheduling-policy", "fcfs")).argv
    assert argv[-4:] == ("--max-num-seqs", "64", "--scheduling-policy", "fcfs")


def test_the_users_environment_wins_over_defaults_but_not_over_who_this_pod_is():
    made = plan(accelerators=wire.Accelerators(count=0))
    inherited = {"UCX_TLS": "rc", "VLLM_NIXL_SIDE_CHANNEL_HOST": "elsewhere", "HOME": "/home"}
    environment = made.environment(inherited)
    assert environment["UCX_TLS"] == "rc"
    assert environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "10.0.0.7"
    assert environment["HOME"] == "/home"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"


def test_tls_is_vllm_s_own_and_clients_need_certificates_only_where_that_is_asked_for():
    made = plan(tls=wire.EngineTls(folder="/tls", server_name="e"))
    assert (flag(made, "--ssl-certfile"), flag(made, "--ssl-keyfile")) == ("/tls/tls.crt", "/tls/tls.key")
    assert "--enable-ssl-refresh" in made.argv
    assert "--ssl-cert-reqs" not in made.argv
    made = plan(tls=wire.EngineTls(folder="/tls", server_name="e", client_certificates=True))
    assert (flag(made, "--ssl-ca-certs"), flag(made, "--ssl-cert-reqs")) == ("/tls/ca.crt", "2")
