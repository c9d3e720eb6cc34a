"""The environment of an engine worker."""

from __future__ import annotations

import pytest

from paceline.api import wire
from paceline.errors import ConfigError
from paceline_worker.engine.settings import Backend, NodeGroup, from_environment
from tests.worker.engine.support import engine_config


def environment(config: wire.EngineConfig | None = None, **changes: str) -> dict[str, str]:
    document = wire.encode(config or engine_config()).decode()
    pod = {"POD_NAME": "engine-0", "POD_NAMESPACE": "prod", "POD_IP": "10.0.0.7"}
    return {"PACELINE_ENGINE_CONFIG": document, **pod, **changes}


def two_nodes() -> wire.EngineConfig:
    return engine_config(parallelism=wire.Parallelism(tensor=8, pipeline=2, nodes=2))


def test_a_pod_that_says_nothing_else_runs_vllm_on_all_addresses():
    settings = from_environment(environment())
    assert settings.config == engine_config()
    assert (settings.pod.name, settings.pod.namespace, settings.pod.ip) == ("engine-0", "prod", "10.0.0.7")
    assert settings.bind_host == "0.0.0.0"
    assert settings.backend is Backend.VLLM
    assert settings.group == NodeGroup(index=0, size=1)
    assert settings.parent_fd is None


def test_the_local_runtime_chooses_the_emulator_its_speed_and_its_address():
    changes = {
        "PACELINE_ENGINE_BACKEND": "emulator",
        "PACELINE_EMULATOR_PROFILE": "tiny-cpu",
        "PACELINE_EMULATOR_SPEED": "2.5",
        "PACELINE_BIND_HOST": "127.0.0.1",
        "PACELINE_PARENT_FD": "7",
    }
    settings = from_environment(environment(**changes))
    assert settings.backend is Backend.EMULATOR
    assert (settings.emulator_profile, settings.emulator_speed) == ("tiny-cpu", 2.5)
    assert settings.bind_host == "127.0.0.1"
    assert settings.parent_fd == 7


def test_a_follower_knows_its_leader():
    lws = {"LWS_WORKER_INDEX": "1", "LWS_GROUP_SIZE": "2", "LWS_LEADER_ADDRESS": "engine-0.engine"}
    group = from_environment(environment(two_nodes(), **lws)).group
    assert (group.index, group.size, group.leader_address, group.leads) == (1, 2, "engine-0.engine", False)


def test_an_emulated_engine_that_spans_nodes_is_one_process():
    settings = from_environment(environment(two_nodes(), PACELINE_ENGINE_BACKEND="emulator"))
    assert settings.group == NodeGroup()


@pytest.mark.parametrize("name", ["PACELINE_ENGINE_CONFIG", "POD_NAME", "POD_NAMESPACE", "POD_IP"])
def test_a_missing_variable_is_named(name: str):
    incomplete = environment()
    del incomplete[name]
    with pytest.raises(ConfigError, match=f"{name} is not set"):
        from_environment(incomplete)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PACELINE_ENGINE_CONFIG", "{", "is not a valid EngineConfig"),
        ("PACELINE_ENGINE_CONFIG", '{"deployment": 1}', r"deployment"),
        ("PACELINE_ENGINE_BACKEND", "sglang", "'sglang'; allowed is vllm or emulator"),
        ("PACELINE_EMULATOR_SPEED", "0", "'0'; allowed is a number above 0"),
        ("PACELINE_EMULATOR_SPEED", "fast", "'fast'; allowed is a number above 0"),
        ("PACELINE_EMULATOR_SPEED", "inf", "'inf'; allowed is a number above 0"),
        ("PACELINE_PARENT_FD", "-1", "'-1'; allowed is an integer of at least 0"),
        ("PACELINE_PARENT_FD", "x", "'x'; allowed is an integer of at least 0"),
    ],
)
def test_a_value_that_is_not_valid_is_named_with_what_is_allowed(name: str, value: str, allowed: str):
    with pytest.raises(ConfigError, match=f"{name}.*{allowed}"):
        from_environment(environment(**{name: value}))


@pytest.mark.parametrize(
    ("lws", "message"),
    [
        ({}, "LWS_WORKER_INDEX is not set"),
        ({"LWS_WORKER_INDEX": "0", "LWS_GROUP_SIZE": "3"}, "LWS_GROUP_SIZE is 3, but parallelism.nodes .* is 2"),
        ({"LWS_WORKER_INDEX": "2", "LWS_GROUP_SIZE": "2"}, "LWS_WORKER_INDEX is 2; allowed is 0 to 1"),
        ({"LWS_WORKER_INDEX": "-1", "LWS_GROUP_SIZE": "2"}, "LWS_WORKER_INDEX is '-1'"),
    ],
)
def test_an_engine_that_spans_nodes_needs_its_place_among_them(lws: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        from_environment(environment(two_nodes(), LWS_LEADER_ADDRESS="engine-0.engine", **lws))
