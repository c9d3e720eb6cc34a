"""An engine that spans nodes is one engine: its leader's pod. The others belong to it and count for nothing else."""

from __future__ import annotations

from dataclasses import replace

from paceline.api import labels
from paceline.policy.lifecycle.observed import Pod
from tests.policy.lifecycle.world import World, small


class Groups(World):
    """Each engine has a second pod, as a LeaderWorkerSet makes it; they are never ready, as none has a gate."""

    def operate(self, *, killed_after: int | None = None):  # type: ignore[no-untyped-def]
        leaders = dict(self.pods)
        self.pods |= {f"{name}-1": follower(pod) for name, pod in leaders.items()}
        try:
            return super().operate(killed_after=killed_after)
        finally:
            self.pods = {name: pod for name, pod in self.pods.items() if pod.component == labels.COMPONENT_ENGINE}


def follower(leader: Pod) -> Pod:
    return replace(
        leader, name=f"{leader.name}-1", uid=f"{leader.uid}-1", component=labels.COMPONENT_FOLLOWER, role=None,
        ready=False, serving=None, containers_ready=False,
    )  # fmt: skip


def test_followers_are_no_engines() -> None:
    world = Groups(small(prefill=1, decode=2))
    world.run()
    assert world.roles() == {"prefill": 1, "decode": 2}
    assert len(world.pods) == 3


def test_a_group_that_is_lost_whole_comes_back_with_its_role() -> None:
    world = Groups(small(prefill=1, decode=2))
    world.run()
    world.lose(min(world.pods))
    world.run()
    assert world.roles() == {"prefill": 1, "decode": 2}
    assert world.harm == []
