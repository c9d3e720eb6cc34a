"""Which pods a manifest makes here, with which engines behind them."""

import random
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paceline.api import wire
from paceline.api.v1alpha1 import ModelDeployment, load
from paceline.errors import ConfigError, ConfigurationImpossible, LocalRuntimeError
from paceline.local.plan import FALLBACK_PROFILE, ClusterOptions, LocalPlan, make_plan, with_model_path
from paceline.local.ports import PortAllocator
from paceline.planning.calibration import entry_text
from paceline.policy.scaling.profiles import get_profile, profile_of
from tests.api.documents import sample

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
P, D, B = wire.Role.PREFILL, wire.Role.DECODE, wire.Role.BOTH


def plan(md: ModelDeployment, **options: Any) -> LocalPlan:
    return make_plan(
        md,
        ClusterOptions(**{"port": 0, **options}),
        ports=PortAllocator("127.0.0.1", random.Random()),
        fleet_path=Path("/run/fleet.json"),
        environment={},
    )


def test_the_quickstart_makes_four_engines_that_change_roles_and_a_router() -> None:
    made = plan(sample("quickstart"))
    assert [pod.name for pod in made.engines] == [f"quickstart-flexible-{n}" for n in range(4)]
    assert all(pod.fixed_role is None and pod.revision for pod in made.engines)
    assert made.wanted == {"flexible": {P: 2, D: 2}}
    assert made.router.name == "quickstart-router-0"
    assert made.title == "2 prefill + 2 decode engines (emulated qwen3-32b-h200-tp2)"
    assert made.notes == ()


@pytest.mark.parametrize("name", [path.stem for path in SAMPLES.glob("*.yaml")])
def test_every_sample_can_be_planned_on_emulated_engines(name: str, tmp_path: Path) -> None:
    md = sample(name)
    made = plan(md, tenant_keys=tmp_path if md.spec.tenancy.tenants else None)
    launches = [pod.launch() for pod in (*made.engines, made.router)]
    assert all(launch.program.argv[1] == "-m" for launch in launches)
    for launch in launches:
        launch.release()


def test_different_hardware_makes_pools_with_fixed_roles() -> None:
    made = plan(sample("heterogeneous"))
    assert {pod.fixed_role for pod in made.engines} == {P, D}
    assert set(made.wanted) == {"prefill", "decode"}


def test_counts_of_the_user_go_before_those_of_the_manifest() -> None:
    made = plan(sample("quickstart"), counts={P: 4})
    assert made.wanted == {"flexible": {P: 4, D: 2}}
    assert len(made.engines) == 6


def test_every_life_of_an_engine_has_ports_of_its_own_until_they_are_released() -> None:
    made = plan(sample("quickstart"))
    first, second = made.engines[0].launch(), made.engines[0].launch()
    numbers = [getattr(launch.ports, name) for launch in (first, second) for name in launch.ports.__struct_fields__]
    assert len(set(numbers)) == 10
    config = wire.decode(wire.EngineConfig, first.program.env["PACELINE_ENGINE_CONFIG"], source="test")
    assert config.ports == first.ports


def test_the_router_serves_on_the_endpoint_and_reads_the_fleet_file() -> None:
    made = plan(sample("quickstart"))
    launch = made.router.launch()
    assert launch.ports.api == made.endpoint_port
    assert launch.program.argv[-1] == "/run/fleet.json"


def test_emulated_engines_are_told_profile_and_speed() -> None:
    env = plan(sample("quickstart"), speed=2.5).engines[0].launch().program.env
    assert env["PACELINE_ENGINE_BACKEND"] == "emulator"
    assert env["PACELINE_EMULATOR_PROFILE"] == "qwen3-32b-h200-tp2"
    assert env["PACELINE_EMULATOR_SPEED"] == "2.5"


def test_hardware_of_which_nothing_is_known_is_emulated_as_another_and_the_user_is_told() -> None:
    made = plan(sample("cpu"))
    assert made.title.endswith(f"(emulated {FALLBACK_PROFILE})")
    assert made.notes[0].startswith("No engine profile stands for tiny-llama on CPUs (pool flexible): its engines are")
    assert "Choose another with --profile: deepseek-v3-h200-tp8, " in made.notes[0]


def test_a_profile_that_the_manifest_names_is_emulated() -> None:
    noted = {"paceline.dev/engine-profile": "llama-3.1-8b-h100-tp1"}
    md = sample("quickstart")
    md = md.model_copy(update={"metadata": md.metadata.model_copy(update={"annotations": noted})})
    assert plan(md).prefill_profile == "llama-3.1-8b-h100-tp1"
    assert plan(md, profile="tiny-cpu").prefill_profile == "tiny-cpu"


def test_a_profile_that_stands_in_the_manifest_is_emulated_as_it_is() -> None:
    mine = entry_text(replace(get_profile("tiny-cpu"), name="mine"))
    md = sample("quickstart")
    noted = {"paceline.dev/engine-profile": mine}
    made = plan(md.model_copy(update={"metadata": md.metadata.model_copy(update={"annotations": noted})}))
    assert made.title.endswith("(emulated mine)")
    environment = made.engines[0].launch().program.env
    assert profile_of(environment["PACELINE_EMULATOR_PROFILE"], "").name == "mine"


def test_an_unknown_profile_in_the_manifest_is_refused_with_those_that_are_known() -> None:
    noted = {"paceline.dev/engine-profile": "h999"}
    md = sample("quickstart")
    md = md.model_copy(update={"metadata": md.metadata.model_copy(update={"annotations": noted})})
    with pytest.raises(ConfigError, match=r"metadata\.annotations\[.*'h999' is not known. Known profiles: deepseek"):
        plan(md)


def test_an_unknown_profile_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="qwen3-32b-h200-tp2"):
        plan(sample("quickstart"), profile="abacus")


def test_real_engines_get_no_emulation() -> None:
    made = plan(sample("cpu"), backend="vllm")
    env = made.engines[0].launch().program.env
    assert env["PACELINE_ENGINE_BACKEND"] == "vllm"
    assert not [name for name in env if "EMULATOR" in name]


def test_real_engines_that_span_nodes_are_refused() -> None:
    with pytest.raises(ConfigurationImpossible, match=r"needs \d+ nodes for an engine, but this machine has one node"):
        plan(sample("multi-node"), backend="vllm")


def test_a_port_in_use_is_found_before_anything_starts() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(LocalRuntimeError, match=r"is in use.*--port"):
            plan(sample("quickstart"), port=server.getsockname()[1])


def aggregated() -> ModelDeployment:
    return load(
        """
        apiVersion: paceline.dev/v1alpha1
        kind: ModelDeployment
        metadata: {name: one}
        spec:
          model: {name: m}
          engine: {connector: None}
          slo: {ttftMilliseconds: 1000, itlMilliseconds: 50}
          pools:
            mode: Aggregated
            aggregated: {minReplicas: 2, maxReplicas: 3, accelerator: {count: 0}}
        """,
        "test",
    )


def test_aggregated_engines_serve_both() -> None:
    made = plan(aggregated())
    assert made.wanted == {"aggregated": {B: 2}}
    assert {pod.fixed_role for pod in made.engines} == {B}


def test_a_role_that_the_deployment_does_not_have_can_not_be_counted() -> None:
    with pytest.raises(ConfigError, match="--prefill: this deployment has no prefill engines"):
        plan(aggregated(), counts={P: 1})


def test_a_model_path_replaces_the_source(tmp_path: Path) -> None:
    md = with_model_path(sample("quickstart"), tmp_path)
    env = plan(md).engines[0].launch().program.env
    config = wire.decode(wire.EngineConfig, env["PACELINE_ENGINE_CONFIG"], source="test")
    assert config.source == wire.ModelSource(kind=wire.SourceKind.LOCAL, reference=str(tmp_path))


def test_a_model_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--model-path: .*nothing is not a folder"):
        with_model_path(sample("quickstart"), tmp_path / "nothing")
