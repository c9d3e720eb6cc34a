"""Network policies, asked as a network would: may this pod reach that port?"""

from __future__ import annotations

from typing import Any

import pytest

from paceline.api import wire
from paceline.api.v1alpha1 import ModelDeployment
from paceline.policy.resources import children
from paceline.policy.resources.network_policy import OPERATOR_LABELS, PROMETHEUS_LABELS, network_policies
from tests.api.documents import deployment, sample

STRANGER: dict[str, str] = {"app": "stranger"}


def chooses(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in expressions if one["operator"] == "In"
    )


def reaches(md: ModelDeployment, source: dict[str, str], target: dict[str, Any], port: str | int) -> bool:
    labels = target["metadata"]["labels"]
    numbers = {entry["name"]: entry["containerPort"] for entry in target["spec"]["containers"][0]["ports"]}
    wanted = numbers.get(port, port) if isinstance(port, str) else port
    (policy,) = [one for one in network_policies(md) if chooses(one["spec"]["podSelector"], labels)]
    return any(
        ("from" not in rule or any(chooses(peer["podSelector"], source) for peer in rule["from"]))
        and ("ports" not in rule or wanted in [numbers.get(entry["port"], entry["port"]) for entry in rule["ports"]])
        for rule in policy["spec"]["ingress"]
    )


def engine(md: ModelDeployment) -> dict[str, Any]:
    return children(md).engines[0].pod_template


def router(md: ModelDeployment) -> dict[str, Any]:
    return children(md).router.pod_template


@pytest.mark.parametrize("port", ["api", "kv-events", "kv-replay"])
def test_routers_send_requests_and_listen_to_cache_events(port: str) -> None:
    md = deployment()
    assert reaches(md, router(md)["metadata"]["labels"], engine(md), port)


def test_routers_hear_every_data_parallel_rank() -> None:
    md = sample("multi-node")
    ports = wire.EnginePorts()
    assert reaches(md, router(md)["metadata"]["labels"], engine(md), ports.kv_events + 1)
    assert not reaches(md, router(md)["metadata"]["labels"], engine(md), ports.kv_events + 2)


@pytest.mark.parametrize("port", ["kv-side-channel", 40_123])
def test_engines_reach_each_other_on_every_port_because_transports_choose_theirs_at_run_time(port: str | int) -> None:
    md = deployment()
    assert reaches(md, engine(md)["metadata"]["labels"], engine(md), port)


def test_the_pods_of_an_engine_over_several_nodes_reach_each_other() -> None:
    md = sample("multi-node")
    template = children(md).engines[0].workload["spec"]["leaderWorkerTemplate"]
    leader, follower = template["leaderTemplate"], template["workerTemplate"]
    assert reaches(md, leader["metadata"]["labels"], follower, 29_500)
    assert reaches(md, follower["metadata"]["labels"], leader, 29_500)


def test_engines_of_another_deployment_are_kept_out() -> None:
    md = deployment()
    other = {**engine(md)["metadata"]["labels"], "paceline.dev/deployment": "other"}
    assert not reaches(md, other, engine(md), "api")


def test_nobody_gets_past_the_router() -> None:
    md = deployment()
    assert [reaches(md, STRANGER, engine(md), port) for port in ("api", "admin", "kv-events")] == [False] * 3


def test_everybody_reaches_the_router_but_not_its_admin_server() -> None:
    md = deployment()
    assert [reaches(md, STRANGER, router(md), port) for port in ("api", "admin")] == [True, False]


def test_prometheus_reads_all_pages_of_metrics() -> None:
    md = deployment()
    assert [reaches(md, PROMETHEUS_LABELS, engine(md), port) for port in ("api", "admin")] == [True, True]
    assert reaches(md, PROMETHEUS_LABELS, router(md), "admin")


def test_the_operator_drains_engines_and_does_not_send_them_requests() -> None:
    md = deployment()
    assert [reaches(md, OPERATOR_LABELS, engine(md), port) for port in ("api", "admin")] == [False, True]
