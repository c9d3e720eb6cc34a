from __future__ import annotations

from typing import Any

from paceline.policy.resources import Images, children
from paceline.policy.resources.pod_monitor import pod_monitors
from tests.api.documents import deployment


def matches(monitor: dict[str, Any], template: dict[str, Any]) -> bool:
    return bool(monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items())


def port_names(template: dict[str, Any]) -> set[str]:
    return {port["name"] for port in template["spec"]["containers"][0]["ports"]}


def test_engines_and_routers_have_a_monitor_each_that_selects_them_and_not_the_others() -> None:
    built = children(deployment(), images=Images())
    engine, router = built.engines[0].pod_template, built.router.pod_template
    of_engines, of_routers = pod_monitors(deployment())
    assert [matches(of_engines, engine), matches(of_engines, router)] == [True, False]
    assert [matches(of_routers, engine), matches(of_routers, router)] == [False, True]


def test_every_page_of_metrics_is_read_from_a_port_that_the_pod_has() -> None:
    built = children(deployment(), images=Images())
    of_engines, of_routers = pod_monitors(deployment())
    read = [entry["port"] for entry in of_engines["spec"]["podMetricsEndpoints"]]
    assert read == ["api", "admin"]
    assert set(read) <= port_names(built.engines[0].pod_template)
    assert [entry["port"] for entry in of_routers["spec"]["podMetricsEndpoints"]] == ["admin"]


def test_every_series_says_the_role_of_its_engine_at_that_time() -> None:
    assert "paceline.dev/role" in pod_monitors(deployment())[0]["spec"]["podTargetLabels"]
