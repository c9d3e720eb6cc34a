from __future__ import annotations

import copy
from typing import Any

import pytest

from paceline.api.wire import Role
from paceline.policy.resources import FLEXIBLE, hardware_pools
from tests.api.documents import deployment

H200: dict[str, Any] = {"minReplicas": 2, "maxReplicas": 4, "accelerator": {"product": "NVIDIA-H200", "count": 2}}
TP2 = {"parallelism": {"tensor": 2}}


def test_the_same_hardware_makes_one_pool_whose_engines_change_roles() -> None:
    decode = {**H200, "minReplicas": 1, "maxReplicas": 8}
    (pool,) = hardware_pools(deployment(engine=TP2, pools={"prefill": H200, "decode": decode}).spec)
    assert (pool.name, pool.fixed_role) == (FLEXIBLE, None)
    assert [(bound.role, bound.minimum, bound.maximum) for bound in pool.bounds] == [
        (Role.PREFILL, 2, 4),
        (Role.DECODE, 1, 8),
    ]
    assert (pool.min_replicas, pool.max_replicas) == (3, 12)


@pytest.mark.parametrize(
    "difference",
    [
        {"accelerator": {"product": "NVIDIA-H100", "count": 2}},
        {"accelerator": {"product": "NVIDIA-H200", "count": 1}},
        {"parallelism": {"tensor": 2, "pipeline": 2}},
        {"nodeSelector": [{"key": "zone", "value": "a"}]},
        {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
    ],
)
def test_different_hardware_makes_pools_with_fixed_roles(difference: dict[str, Any]) -> None:
    decode = {**copy.deepcopy(H200), **difference}
    pools = hardware_pools(deployment(engine=TP2, pools={"prefill": H200, "decode": decode}).spec)
    assert [(pool.name, pool.fixed_role) for pool in pools] == [("prefill", Role.PREFILL), ("decode", Role.DECODE)]


@pytest.mark.parametrize(
    "same",
    [
        {"parallelism": {"tensor": 2}},
        {"accelerator": {"product": "NVIDIA-H200", "count": 2, "resourceName": "nvidia.com/gpu"}},
    ],
)
def test_hardware_that_is_written_differently_is_still_the_same(same: dict[str, Any]) -> None:
    assert len(hardware_pools(deployment(engine=TP2, pools={"prefill": H200, "decode": {**H200, **same}}).spec)) == 1


def test_the_order_of_node_labels_does_not_matter() -> None:
    labels = [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]
    pools = {"prefill": {**H200, "nodeSelector": labels}, "decode": {**H200, "nodeSelector": labels[::-1]}}
    assert len(hardware_pools(deployment(engine=TP2, pools=pools).spec)) == 1


def test_an_aggregated_deployment_has_one_pool_for_both_roles() -> None:
    (pool,) = hardware_pools(deployment(engine=TP2, pools={"mode": "Aggregated", "aggregated": H200}).spec)
    assert (pool.name, pool.fixed_role, pool.min_replicas) == ("aggregated", Role.BOTH, 2)


@pytest.mark.parametrize(
    ("parallelism", "count", "nodes", "accelerators"),
    [
        ({}, 1, 1, 1),
        ({"tensor": 2}, 2, 1, 2),
        ({"tensor": 8, "pipeline": 2}, 8, 2, 16),
        ({"tensor": 8, "data": 4}, 8, 4, 32),
        ({"tensor": 2}, 0, 1, 0),
    ],
)
def test_the_number_of_pods_follows_from_the_accelerators(
    parallelism: dict[str, int], count: int, nodes: int, accelerators: int
) -> None:
    engines = {"maxReplicas": 1, "accelerator": {"count": count}}
    (pool,) = hardware_pools(
        deployment(engine={"parallelism": parallelism}, pools={"prefill": engines, "decode": engines}).spec
    )
    assert (pool.nodes, pool.accelerators) == (nodes, accelerators)
