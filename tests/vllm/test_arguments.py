"""vLLM's own parser accepts every plan that the worker makes: flags, JSON documents, connectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from paceline.api import wire
from paceline_worker.engine.launch import LaunchPlan
from paceline_worker.engine.settings import NodeGroup
from paceline_worker.engine.vllm_args import vllm_plan
from tests.worker.engine.support import engine_settings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MOONCAKE = wire.SharedTier(kind=wire.SharedTierKind.MOONCAKE, endpoint="store:50051")
LMCACHE = wire.SharedTier(kind=wire.SharedTierKind.LMCACHE, endpoint="cache:65432")
ALL_TIERS = wire.KvCache(host_gib=64, disk_gib=500, block_size=64, shared=MOONCAKE)
TWO_NODES = wire.Parallelism(tensor=8, pipeline=2, nodes=2)
ADAPTERS = (wire.LoraAdapter(name="a=b", path="/adapters/a"), wire.LoraAdapter(name="c", path="/adapters/c"))

PLANS: dict[str, tuple[NodeGroup | None, dict[str, Any]]] = {
    "one gpu": (None, {}),
    "cpu": (None, {"accelerators": wire.Accelerators(count=0)}),
    "tensor parallel": (None, {"parallelism": wire.Parallelism(tensor=4)}),
    "data and expert parallel": (None, {"parallelism": wire.Parallelism(data=8, expert=True)}),
    "leader": (NodeGroup(0, 2, "leader.example"), {"parallelism": TWO_NODES}),
    "follower": (NodeGroup(1, 2, "leader.example"), {"parallelism": TWO_NODES}),
    "all tiers": (None, {"kv_cache": ALL_TIERS}),
    "lmcache": (None, {"kv_cache": wire.KvCache(shared=LMCACHE)}),
    "host tier alone": (None, {"kv_cache": wire.KvCache(host_gib=1), "connector": wire.ConnectorKind.NONE}),
    "adapters": (None, {"lora_adapters": ADAPTERS}),
    "tls": (None, {"tls": wire.EngineTls(folder="/tls", server_name="e", client_certificates=True)}),
    "own arguments": (None, {"extra_args": ("--max-num-seqs", "64"), "served_names": ("x", "y")}),
}

# Importing vLLM takes seconds: one process parses them all. It looks every connector up in vLLM's own registry.
PARSE = """
import json, sys
from vllm.config import KVEventsConfig, KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

def connectors(transfer):
    extra = transfer.kv_connector_extra_config
    children = [KVTransferConfig(**child) for child in extra.get("connectors", [])]
    return [transfer.kv_connector, *(name for child in children for name in connectors(child))]

parsed = {}
for name, argv in json.load(sys.stdin).items():
    found = vars(make_arg_parser(FlexibleArgumentParser()).parse_args(argv))
    transfer = found["kv_transfer_config"]
    used = connectors(transfer) if transfer else []
    for connector in used:
        assert connector in KVConnectorFactory._registry, connector
    events = found["kv_events_config"]
    parsed[name] = {
        "connectors": used,
        "failure_policy": transfer.kv_load_failure_policy if transfer else None,
        "events": events.endpoint if events else None,
        **{key: found[key] for key in (
            "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "nnodes", "node_rank",
            "master_addr", "headless", "max_loras", "max_num_seqs", "served_model_name", "block_size",
            "enable_expert_parallel", "scheduling_policy", "enable_prefix_caching",
        )},
        "adapters": [[module.name, module.path] for module in found["lora_modules"] or []],
    }
print(json.dumps(parsed))
"""


def arguments(plan: LaunchPlan) -> list[str]:
    """What is behind the program's name."""
    start = 4 if plan.serves_api is False else 3
    return list(plan.argv[start:])


@pytest.fixture(scope="module")
def parsed() -> dict[str, Any]:
    plans = {
        name: arguments(vllm_plan(engine_settings(group, **changes), python="python", run_directory="/run/engine"))
        for name, (group, changes) in PLANS.items()
    }
    run = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(plans),
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", PLANS)
def test_vllm_accepts_the_plan_and_reads_from_it_what_was_meant(parsed: dict[str, Any], name: str):
    found, changes = parsed[name], PLANS[name][1]
    parallelism = changes.get("parallelism", wire.Parallelism())
    sizes = (found["tensor_parallel_size"], found["pipeline_parallel_size"], found["data_parallel_size"])
    assert sizes == (parallelism.tensor, parallelism.pipeline, parallelism.data)
    assert found["enable_expert_parallel"] is parallelism.expert
    assert found["nnodes"] == parallelism.nodes
    assert found["events"] == "tcp://*:20080"
    assert found["scheduling_policy"] == "priority"
    assert found["enable_prefix_caching"] is True
    assert found["failure_policy"] == "recompute"


def test_a_follower_is_headless_and_knows_its_leader(parsed: dict[str, Any]):
    found = parsed["follower"]
    assert (found["headless"], found["node_rank"], found["master_addr"]) == (True, 1, "leader.example")
    assert parsed["leader"]["headless"] is False


def test_all_tiers_are_connectors_that_vllm_knows(parsed: dict[str, Any]):
    assert parsed["all tiers"]["connectors"] == [
        "MultiConnector",
        "NixlConnector",
        "OffloadingConnector",
        "SimpleCPUOffloadConnector",
        "MooncakeStoreConnector",
    ]
    assert parsed["all tiers"]["block_size"] == 64
    assert parsed["lmcache"]["connectors"] == ["MultiConnector", "NixlConnector", "LMCacheConnectorV1"]
    assert parsed["host tier alone"]["connectors"] == ["OffloadingConnector"]


def test_adapters_keep_their_names(parsed: dict[str, Any]):
    assert parsed["adapters"]["adapters"] == [["a=b", "/adapters/a"], ["c", "/adapters/c"]]
    assert parsed["adapters"]["max_loras"] == 2


def test_the_users_own_arguments_arrive(parsed: dict[str, Any]):
    assert parsed["own arguments"]["max_num_seqs"] == 64
    assert parsed["own arguments"]["served_model_name"] == ["x", "y"]
