"""One GPU quota over several deployments: a new one waits for its minimum, and gets it without waiting long."""

from __future__ import annotations

from paceline.api import labels
from paceline.api.wire import Role
from paceline.planner.deployment import DeploymentPlanner
from paceline.planner.sharing import Quota, priority_of
from tests.planner.world import elastic

P, D = Role.PREFILL, Role.DECODE
FIRST, SECOND = ("ns", "first"), ("ns", "second")


def test_a_deployment_that_comes_later_orders_nothing_until_others_have_given_up_its_minimum() -> None:
    quota = Quota(12)
    old, new = DeploymentPlanner(elastic(), {P: 3, D: 3}), DeploymentPlanner(elastic(), {P: 1, D: 1})
    assert quota.share(FIRST, old, engines=6, now=0.0).gpus == 12
    share = quota.share(SECOND, new, engines=0, now=1.0)
    assert share.gpus == 0
    assert share.note == "ns/first gives 4 GPUs to ns/second: ns/second holds 0 of the 4 of its minimum."
    new.configure(new.md, gpu_limit=share.gpus)
    assert dict(new.orders.counts) == {P: 0, D: 0}
    assert quota.share(FIRST, old, engines=6, now=2.0).gpus == 8
    assert quota.share(SECOND, new, engines=0, now=3.0).gpus == 0, "they have not gone yet"
    quota.share(FIRST, old, engines=4, now=10.0)
    share = quota.share(SECOND, new, engines=0, now=11.0)
    assert share.gpus == 4
    new.configure(new.md, gpu_limit=share.gpus)
    assert dict(new.orders.counts) == {P: 1, D: 1}


def test_what_a_deployment_that_is_gone_had_is_free() -> None:
    quota = Quota(8)
    old, new = DeploymentPlanner(elastic(), {P: 2, D: 2}), DeploymentPlanner(elastic(), {P: 1, D: 1})
    quota.share(FIRST, old, engines=4, now=0.0)
    quota.forget(FIRST)
    assert quota.share(SECOND, new, engines=0, now=1.0).gpus == 4


def test_a_priority_that_is_no_number_counts_as_none() -> None:
    md = elastic()
    for text, priority in (("7", 7), ("-3", -3), ("high", 0), ("9" * 30, 1_000_000)):
        metadata = md.metadata.model_copy(update={"annotations": {labels.PRIORITY: text}})
        assert priority_of(md.model_copy(update={"metadata": metadata})) == priority
