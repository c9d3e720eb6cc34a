"""From a pod template to a program: variables resolved, ports replaced, everything else passed over."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paceline.api import wire
from paceline.errors import LocalRuntimeError
from paceline.local.pods import Context, PodIdentity, engine_program, router_program

ENGINE = wire.EngineConfig(
    deployment="d", namespace="ns", model="m", served_names=("m",),
    source=wire.ModelSource(kind=wire.SourceKind.LOCAL, reference="/m"),
)  # fmt: skip
ROUTER = wire.RouterConfig(
    deployment="d", namespace="ns", served_names=("m",),
    objective=wire.Objective(ttft_milliseconds=2000, itl_milliseconds=50),
    classes=(wire.RequestClass(name="batch", priority=1, objective=wire.Objective(
        ttft_milliseconds=9000, itl_milliseconds=3)),),
)  # fmt: skip
PORTS = wire.EnginePorts(api=1001, admin=1002, kv_side_channel=1003, kv_events=1004, kv_replay=1005)
POD = PodIdentity("engine-0", "ns")


def template(*env: dict[str, Any], command: tuple[str, ...] = ("python", "-m", "x"), args: tuple[str, ...] = ()) -> Any:
    container = {"name": "c", "image": "i", "command": list(command), "args": list(args), "env": list(env)}
    return {"metadata": {"labels": {"team": "blue"}}, "spec": {"containers": [container], "volumes": [{"name": "x"}]}}


def engine(*env: dict[str, Any], context: Context | None = None, **kwargs: Any) -> Any:
    config = {"name": "PACELINE_ENGINE_CONFIG", "value": wire.encode(ENGINE).decode()}
    return engine_program(template(config, *env, **kwargs), POD, context or Context({}, {}), PORTS, {"EXTRA": "1"})


def test_python_is_this_interpreter_and_arguments_follow_the_command() -> None:
    assert engine(args=("--flag",)).argv == (sys.executable, "-m", "x", "--flag")
    assert engine(command=("/bin/sleep", "1")).argv == ("/bin/sleep", "1")


def test_the_engine_gets_the_ports_of_this_machine_and_nothing_else_changes() -> None:
    config = wire.decode(wire.EngineConfig, engine().env["PACELINE_ENGINE_CONFIG"], source="test")
    assert config == msgspec.structs.replace(ENGINE, ports=PORTS)


def test_fields_of_the_pod_are_resolved() -> None:
    def field(name: str, path: str) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    env = engine(
        field("NAME", "metadata.name"),
        field("SPACE", "metadata.namespace"),
        field("IP", "status.podIP"),
        field("TEAM", "metadata.labels['team']"),
    ).env
    assert (env["NAME"], env["SPACE"], env["IP"], env["TEAM"]) == ("engine-0", "ns", "127.0.0.1", "blue")


def test_a_key_of_a_config_map_is_resolved() -> None:
    reference = {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "k"}}}
    assert engine(reference, context=Context({"map": {"k": "v"}}, {})).env["A"] == "v"


def test_a_secret_is_taken_from_the_environment() -> None:
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    assert engine(secret, context=Context({}, {"TOKEN": "t"})).env["TOKEN"] == "t"


def test_emulated_engines_do_without_secrets() -> None:
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    assert "TOKEN" not in engine(secret, context=Context({}, {}, needs_secrets=False)).env


@pytest.mark.parametrize("kind", ["secretKeyRef", "configMapKeyRef"])
def test_an_optional_reference_may_lead_nowhere(kind: str) -> None:
    reference = {"name": "A", "valueFrom": {kind: {"name": "s", "key": "k", "optional": True}}}
    assert "A" not in engine(reference).env


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"secretKeyRef": {"name": "s", "key": "k"}}, "comes from the Secret s.* Set A in the environment"),
        ({"configMapKeyRef": {"name": "m", "key": "k"}}, "asks for key k of ConfigMap m, which is not there"),
        ({"fieldRef": {"fieldPath": "spec.serviceAccountName"}}, "asks for spec.serviceAccountName"),
        ({"resourceFieldRef": {"resource": "limits.cpu"}}, "comes from resourceFieldRef, which a local pod can't"),
    ],
)
def test_what_can_not_be_resolved_is_named(source: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalRuntimeError, match=message):
        engine({"name": "A", "valueFrom": source})


def test_a_container_without_a_command_can_not_run_here() -> None:
    with pytest.raises(LocalRuntimeError, match="no command"):
        engine(command=())


def test_the_environment_is_inherited_but_not_the_runtimes_own_variables() -> None:
    context = Context({}, {"PATH": "/bin", "PACELINE_EMULATOR_SPEED": "9", "EXTRA": "0"})
    env = engine({"name": "PATH", "value": "/own"}, context=context).env
    assert (env["PATH"], env["EXTRA"], env["PACELINE_BIND_HOST"]) == ("/own", "1", "127.0.0.1")
    assert "PACELINE_EMULATOR_SPEED" not in env


def router(speed: float = 1.0, args: tuple[str, ...] = ()) -> Any:
    config = {"name": "PACELINE_ROUTER_CONFIG", "value": wire.encode(ROUTER).decode()}
    return router_program(
        template(config, args=args),
        POD,
        Context({}, {}),
        port=8000,
        admin_port=8001,
        fleet_file=Path("/f"),
        speed=speed,
    )


def test_the_routers_flags_are_those_of_this_machine_whatever_the_template_says() -> None:
    argv = router(args=("--host", "0.0.0.0", "--port", "80", "--verbose", "--fleet-source", "kubernetes")).argv
    assert argv[3:] == (
        "--verbose", "--host", "127.0.0.1", "--port", "8000", "--admin-port", "8001",
        "--fleet-source", "file", "--fleet-file", "/f",
    )  # fmt: skip


def test_the_routers_objectives_shrink_with_the_engines_speed() -> None:
    def objectives(speed: float) -> list[tuple[int, int]]:
        config = wire.decode(wire.RouterConfig, router(speed).env["PACELINE_ROUTER_CONFIG"], source="test")
        found = [config.objective, *(entry.objective for entry in config.classes)]
        return [(one.ttft_milliseconds, one.itl_milliseconds) for one in found]

    assert objectives(1) == [(2000, 50), (9000, 3)]
    assert objectives(10) == [(200, 5), (900, 1)]
