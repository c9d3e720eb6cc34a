"""The operator's rights: enough for all that it makes, and no more. The rest of the installation: tests/helm."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from paceline.controller.kinds import CHILDREN, LEASE, MODEL_DEPLOYMENT
from paceline.policy.resources.access import router_access
from paceline.policy.resources.install import (
    cluster_rules,
    namespaced_rules,
    node_rules,
    own_rules,
    render,
    whole_cluster_rules,
)
from tests.api.documents import ROOT, deployment


def verbs(resource: str, group: str) -> set[str]:
    rules = [rule for rule in cluster_rules() if resource in rule["resources"] and group in rule["apiGroups"]]
    return {verb for rule in rules for verb in rule["verbs"]}


def test_the_charts_file_is_what_the_code_makes() -> None:
    assert (ROOT / "helm" / "paceline" / "files" / "rights.yaml").read_text() == render()
    assert yaml.safe_load(render()) == {
        "namespaced": namespaced_rules(), "cluster": whole_cluster_rules(), "nodes": node_rules(), "own": own_rules()
    }  # fmt: skip


@pytest.mark.parametrize("kind", CHILDREN, ids=lambda kind: kind.id)
def test_the_operator_may_make_and_remove_every_kind_of_child(kind: Any) -> None:
    group = kind.api_version.rpartition("/")[0]
    assert verbs(kind.plural, group) == {"get", "list", "watch", "create", "patch", "delete"}


def test_it_has_at_least_the_rights_that_it_hands_on_to_routers() -> None:
    for rule in router_access(deployment()).role["rules"]:
        for resource in rule["resources"]:
            assert set(rule["verbs"]) <= verbs(resource, "")


def test_it_can_neither_delete_resources_of_users_nor_read_secrets() -> None:
    assert "delete" not in verbs(MODEL_DEPLOYMENT.plural, "paceline.dev")
    assert verbs("secrets", "") == set()
    assert not any("*" in words for rule in [*cluster_rules(), *own_rules()] for words in rule.values())


def test_leases_are_its_own_namespaces_only() -> None:
    assert verbs(LEASE.plural, "coordination.k8s.io") == set()
    assert [rule["resources"] for rule in own_rules()] == [["leases"]]


def test_of_the_cluster_itself_it_only_looks() -> None:
    assert {verb for rule in whole_cluster_rules() for verb in rule["verbs"]} == {"list", "watch"}


def test_nodes_are_out_of_its_reach_unless_it_is_to_taint_them() -> None:
    assert verbs("nodes", "") == set()
    assert node_rules() == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]}]
