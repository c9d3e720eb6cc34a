from __future__ import annotations

import pytest

from paceline.clock import VirtualClock
from paceline.controller.check import check_installation
from paceline.controller.kinds import LEASE
from paceline.controller.lease import NAME
from paceline.errors import ClusterError
from tests.controller.fakes import FakeApi

NAMESPACE = "somewhere"


class Cluster:
    """A cluster that is looked at; ``renewing`` says whether somebody renews the lease between two looks."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.clock = VirtualClock(epoch=1_000_000)
        self.said: list[str] = []
        self.renewing = True

    def serve(self) -> None:
        self.api.objects["/apis/paceline.dev/v1alpha1"] = {"resources": [{"name": "modeldeployments"}]}

    def hold(self, holder: str) -> None:
        lease = {"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {"holderIdentity": holder}}
        self.api.put(LEASE, lease)

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self.renewing:
            self.hold("operator-1")

    async def check(self) -> None:
        await check_installation(
            self.api,  # type: ignore[arg-type]
            namespace=NAMESPACE, timeout_seconds=30, clock=self.clock, say=self.said.append, sleep=self.sleep,
        )  # fmt: skip


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def test_an_installation_is_well_when_the_kind_is_served_and_a_leader_renews(cluster: Cluster) -> None:
    cluster.serve()
    await cluster.check()
    assert cluster.said == ["modeldeployments.paceline.dev is served", "operator-1 leads"]


async def test_a_missing_crd_is_said_after_the_deadline(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="CRD is not installed"):
        await cluster.check()
    assert cluster.clock.monotonic() >= 30


@pytest.mark.parametrize("holder", ["operator-that-died", ""])
async def test_a_lease_that_nobody_renews_is_no_leader(cluster: Cluster, holder: str) -> None:
    cluster.serve()
    cluster.hold(holder)
    cluster.renewing = False
    with pytest.raises(ClusterError, match="no operator leads"):
        await cluster.check()


async def test_no_lease_at_all_is_no_leader(cluster: Cluster) -> None:
    cluster.serve()
    cluster.renewing = False
    with pytest.raises(ClusterError, match="namespace somewhere"):
        await cluster.check()
