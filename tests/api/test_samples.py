from __future__ import annotations

import pytest

from paceline.api.v1alpha1 import load
from paceline.policy.resources import children, hardware_pools
from tests.api.documents import SAMPLES, sample


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_valid_and_builds_its_children(path) -> None:
    md = load(path.read_text(), path.name)
    names = [(child["kind"], child["metadata"]["name"]) for child in children(md).manifests()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_begins_by_saying_what_it_shows(path) -> None:
    assert path.read_text().startswith("# ")


def test_there_is_a_sample_for_each_way_to_run() -> None:
    assert {path.stem for path in SAMPLES} == {
        "elastic",
        "quickstart",
        "disaggregated-h200",
        "heterogeneous",
        "multi-node",
        "cpu",
        "tenants",
    }


def test_the_quickstart_starts_four_engines_that_change_roles() -> None:
    (pool,) = hardware_pools(sample("quickstart").spec)
    assert (pool.min_replicas, pool.fixed_role) == (4, None)


def test_heterogeneous_hardware_has_fixed_roles() -> None:
    assert [pool.fixed_role for pool in hardware_pools(sample("heterogeneous").spec)] == ["prefill", "decode"]


def test_the_multi_node_sample_spans_two_pods_an_engine() -> None:
    (pool,) = hardware_pools(sample("multi-node").spec)
    assert (pool.nodes, pool.accelerators) == (2, 16)


def test_the_cpu_sample_asks_for_no_accelerator() -> None:
    (pool,) = hardware_pools(sample("cpu").spec)
    assert (pool.nodes, pool.accelerators, pool.accelerator.product) == (1, 0, None)
