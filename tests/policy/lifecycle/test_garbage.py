from __future__ import annotations

from dataclasses import replace
from typing import Any

from paceline.policy.lifecycle.garbage import unreferenced_config_maps
from tests.policy.lifecycle.world import World, small


def config_map(name: str, *, immutable: bool = True) -> dict[str, Any]:
    return {"kind": "ConfigMap", "metadata": {"name": name, "uid": f"u-{name}"}, "immutable": immutable}


def workload(name: str) -> dict[str, Any]:
    env = [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": name, "key": "k"}}}]
    return {"spec": {"template": {"spec": {"containers": [{"env": env}]}}}}


FOUND = [config_map("wanted"), config_map("used"), config_map("old"), config_map("kept", immutable=False)]


def test_what_is_neither_wanted_nor_read_goes() -> None:
    assert unreferenced_config_maps(FOUND, [config_map("wanted")], [workload("used")], ()) == (("old", "u-old"),)


def test_nothing_goes_while_a_pod_starts_since_it_may_yet_read_it() -> None:
    world = World(small())
    world.run()
    pods = tuple(world.pods.values())
    assert unreferenced_config_maps(FOUND, [], [], pods) != ()
    starting = replace(pods[0], ready=False)
    assert unreferenced_config_maps(FOUND, [], [], (starting, *pods[1:])) == ()
