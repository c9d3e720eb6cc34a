from __future__ import annotations

from paceline.policy.resources import Images
from paceline.policy.resources.access import router_access
from paceline.policy.resources.router import router_children
from tests.api.documents import deployment


def test_a_router_may_read_the_pods_of_its_namespace_and_nothing_else() -> None:
    access = router_access(deployment())
    assert access.role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    assert access.role["kind"] == "Role"


def test_the_binding_joins_this_account_with_this_role() -> None:
    access = router_access(deployment())
    name = access.service_account["metadata"]["name"]
    assert access.role_binding["roleRef"]["name"] == access.role["metadata"]["name"]
    assert access.role_binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": "default"}]


def test_routers_run_as_that_account_and_get_its_token() -> None:
    spec = router_children(deployment(), images=Images()).pod_template["spec"]
    assert spec["serviceAccountName"] == router_access(deployment()).service_account["metadata"]["name"]
    assert spec["automountServiceAccountToken"] is True


def test_a_pod_that_merely_names_the_account_gets_no_token() -> None:
    assert router_access(deployment()).service_account["automountServiceAccountToken"] is False
