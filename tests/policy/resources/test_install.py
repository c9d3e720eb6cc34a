"""The manifests that install the operator: complete, and no more rights than it needs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from paceline.controller.kinds import CHILDREN, LEASE, MODEL_DEPLOYMENT
from paceline.policy.resources.access import router_access
from paceline.policy.resources.install import NAME, NAMESPACE, cluster_rules, manifests, render
from paceline.policy.resources.network_policy import OPERATOR_LABELS
from tests.api.documents import ROOT, deployment


def named(kind: str) -> dict[str, Any]:
    (found,) = [one for one in manifests() if one["kind"] == kind]
    return found


def verbs(resource: str, group: str) -> set[str]:
    rules = [rule for rule in cluster_rules() if resource in rule["resources"] and group in rule["apiGroups"]]
    return {verb for rule in rules for verb in rule["verbs"]}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = named("Deployment")["spec"]["template"]["spec"]
    return spec


def test_the_committed_file_is_what_the_code_makes() -> None:
    assert (ROOT / "manifests" / "install.yaml").read_text() == render()


def test_it_is_valid_yaml_with_the_namespace_first() -> None:
    documents = list(yaml.safe_load_all(render()))
    assert documents == list(manifests())
    assert [documents[0]["kind"], documents[1]["kind"]] == ["Namespace", "CustomResourceDefinition"]


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
    assert not any("*" in words for rule in cluster_rules() for words in rule.values())


def test_leases_are_its_own_namespaces_only() -> None:
    assert verbs(LEASE.plural, "coordination.k8s.io") == set()
    assert named("Role")["metadata"]["namespace"] == NAMESPACE
    assert named("Role")["rules"][0]["resources"] == ["leases"]


def test_bindings_join_its_own_account_and_roles() -> None:
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        binding = named(kind)
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]
        assert binding["roleRef"]["name"] == named(binding["roleRef"]["kind"])["metadata"]["name"]
    assert pod()["serviceAccountName"] == named("ServiceAccount")["metadata"]["name"]


def test_there_are_two_replicas_that_meet_the_restricted_standard_of_their_namespace() -> None:
    assert named("Deployment")["spec"]["replicas"] == 2
    assert named("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod()["securityContext"]["runAsNonRoot"] is True
    security = pod()["containers"][0]["securityContext"]
    assert (security["allowPrivilegeEscalation"], security["capabilities"]) == (False, {"drop": ["ALL"]})


def test_network_policies_of_engines_know_the_operators_pods() -> None:
    template = named("Deployment")["spec"]["template"]
    assert OPERATOR_LABELS.items() <= template["metadata"]["labels"].items()
    assert named("Deployment")["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert named("Service")["spec"]["selector"].items() <= template["metadata"]["labels"].items()


def test_no_image_floats() -> None:
    assert not pod()["containers"][0]["image"].endswith((":latest", "operator"))
