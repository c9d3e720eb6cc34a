from __future__ import annotations

import pytest

from paceline.policy.resources.disruption_budget import KIND, OLD_KIND, disruption_budgets
from tests.api.documents import deployment


def test_a_node_drain_takes_one_engine_and_one_router_at_a_time() -> None:
    budgets = disruption_budgets(deployment(), {KIND})
    assert [budget["spec"]["maxUnavailable"] for budget in budgets] == [1, 1]
    chosen = [budget["spec"]["selector"]["matchLabels"]["paceline.dev/component"] for budget in budgets]
    assert chosen == ["engine", "router"]


@pytest.mark.parametrize(
    ("kinds", "version"),
    [({KIND, OLD_KIND}, "policy/v1"), ({KIND}, "policy/v1"), ({OLD_KIND}, "policy/v1beta1")],
)
def test_the_newest_version_that_the_cluster_has_is_used(kinds: set[str], version: str) -> None:
    assert {budget["apiVersion"] for budget in disruption_budgets(deployment(), kinds)} == {version}


def test_a_cluster_without_the_kind_gets_none() -> None:
    assert disruption_budgets(deployment(), set()) == ()


def test_an_engine_that_serves_nobody_does_not_hold_up_the_drain_where_the_version_can_say_so() -> None:
    (new, _), (old, _) = disruption_budgets(deployment(), {KIND}), disruption_budgets(deployment(), {OLD_KIND})
    assert new["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert "unhealthyPodEvictionPolicy" not in old["spec"]
