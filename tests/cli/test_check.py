"""``paceline check``: is Paceline there and alive, in words, in an exit code and as a document."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.cli.conftest import Command
from tests.cli.fake_cluster import FakeCluster
from tests.cli.scenes import lease


@pytest.mark.usefixtures("no_cluster")
def test_without_a_cluster_it_says_what_it_needs(paceline: Command) -> None:
    code, _, err = paceline("check")
    assert code == 2
    assert "Set KUBECONFIG" in err


def test_an_operator_that_renews_its_lease_is_found(cluster: FakeCluster, paceline: Command) -> None:
    cluster.reacts = lambda: lease(cluster, ago=1)
    assert paceline("check") == (0, "modeldeployments.paceline.dev is served\nme leads\n", "")
    assert cluster.tokens == {"Bearer secret-token"}
    code, out, _ = paceline("check", "-o", "json")
    found = {"ok": True, "found": ["modeldeployments.paceline.dev is served", "me leads"], "problem": None}
    assert (code, json.loads(out)) == (0, found)


def test_a_cluster_without_an_operator_ends_with_one_and_says_what_is_missing(
    cluster: FakeCluster, paceline: Command
) -> None:
    missing = "no operator leads: nobody renews the Lease paceline-operator in namespace paceline-system."
    code, out, err = paceline("check", "--timeout-seconds", "1")
    assert (code, out, err) == (1, "modeldeployments.paceline.dev is served\n", f"paceline: {missing}\n")
    code, out, _ = paceline("check", "--timeout-seconds", "1", "-o", "yaml")
    assert code == 1
    assert yaml.safe_load(out)["problem"] == missing


@pytest.mark.parametrize("value", ["0", "3601", "soon"])
def test_a_patience_out_of_range_is_refused(value: str, paceline: Command) -> None:
    code, _, err = paceline("check", "--timeout-seconds", value)
    assert code == 2
    assert "--timeout-seconds" in err
