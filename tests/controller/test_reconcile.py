"""Whole passes against an API server in memory: what is written, what is not, and what is said of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from paceline.api import labels
from paceline.clock import VirtualClock
from paceline.controller.events import Events
from paceline.controller.execute import Executor
from paceline.controller.kinds import CHILDREN, CONFIG_MAP, DEPLOYMENT, MODEL_DEPLOYMENT, SERVICE, Kind
from paceline.controller.metrics import OperatorMetrics
from paceline.controller.nodes import NodeTaints
from paceline.controller.reconcile import Reconciler, Services, SpecTargets
from paceline.controller.refusals import ApiError, Forbidden, Invalid, NamespaceGoing, NotLeader
from paceline.controller.report import Reporter
from paceline.controller.state import ClusterState, Key, key_of
from paceline.controller.workers import EngineWorkers
from paceline.controller.writer import Writer
from paceline.policy.resources import Images
from tests.api.documents import minimal_manifest
from tests.controller.fakes import FakeApi

KEY = Key("default", "small")
PATH = MODEL_DEPLOYMENT.path("default", "small")


class Cluster:
    """An API server in memory and an operator's pass over its one ModelDeployment."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.leads = True
        clock = VirtualClock(epoch=1_000_000)
        self.workers = EngineWorkers()
        api: Any = self.api
        writer = Writer(api, may_write=lambda: self.leads)
        self.state = ClusterState(api, namespace=None, metrics=OperatorMetrics(), changed=lambda _: None)
        self.state.see_kinds(frozenset(kind.id for kind in CHILDREN))
        events = Events(writer, clock, "operator-1")
        services = Services(
            state=self.state,
            writer=writer,
            workers=self.workers,
            targets=SpecTargets(),
            clock=clock,
            events=events,
            reporter=Reporter(self.state, writer, events, clock),
            executor=Executor(self.state, writer, events, clock),
            nodes=NodeTaints(api, writer, events, clock, limit=0),
        )
        self.reconciler = Reconciler(services, Images())
        self.apply(minimal_manifest())

    def apply(self, manifest: dict[str, Any]) -> None:
        """Somebody applies the resource."""
        known = self.api.objects.get(PATH, {"metadata": {"generation": 0}})
        manifest["metadata"] |= {
            "namespace": "default",
            "uid": "md-uid",
            "generation": known["metadata"]["generation"] + 1,
        }
        manifest["status"] = known.get("status", {})
        self.api.put(MODEL_DEPLOYMENT, manifest)

    def change(self, section: str, **fields: Any) -> None:
        """Somebody changes fields of a section of the spec."""
        manifest = {**self.resource, "spec": {**self.resource["spec"]}}
        manifest["spec"][section] = {**manifest["spec"].get(section, {}), **fields}
        self.apply(manifest)

    @property
    def resource(self) -> dict[str, Any]:
        return self.api.objects[PATH]

    async def run(self) -> list[tuple[str, str]]:
        """One pass on what the server has now; the writes that it made, without events."""
        for raw in self.api.objects.values():
            if raw.get("kind") == labels.KIND:
                self.state.put_resource(raw)
        for cache in self.state.caches.values():
            await cache._list()
        self.api.writes.clear()
        await self.reconciler.reconcile(KEY)
        return [(verb, path) for verb, path in self.api.writes if "/events" not in path]

    def condition(self, kind: str) -> dict[str, Any]:
        (found,) = [each for each in self.resource["status"]["conditions"] if each["type"] == kind]
        return found

    def events(self) -> dict[str, str]:
        found = [raw for path, raw in self.api.objects.items() if "/events/" in path]
        return {event["reason"]: event["message"] for event in found}

    def child(self, kind: Kind, name: str) -> dict[str, Any]:
        return self.api.objects[kind.path("default", name)]

    def edit_service(self, **spec: Any) -> None:
        """Somebody edits the routers' Service by hand."""
        service = self.child(SERVICE, "small-router")
        self.api.put(SERVICE, {**service, "spec": {**service["spec"], **spec}})

    def names(self, kind: Kind) -> list[str]:
        return [path.rpartition("/")[2] for path in self.api.objects if path.startswith(kind.collection("default"))]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    one = Cluster()
    yield one
    await one.workers.close()


async def test_the_first_pass_makes_every_child_and_a_status(cluster: Cluster) -> None:
    writes = await cluster.run()
    assert {verb for verb, _ in writes} == {"apply", "patch"}
    assert len(cluster.names(DEPLOYMENT)) == 2
    assert cluster.condition("Ready")["reason"] == "EnginesMissing"
    assert cluster.resource["status"]["observedGeneration"] == 1
    owner = cluster.child(SERVICE, "small-router")["metadata"]["ownerReferences"][0]
    assert (owner["uid"], owner["controller"]) == ("md-uid", True)


async def test_the_second_pass_writes_nothing(cluster: Cluster) -> None:
    await cluster.run()
    assert await cluster.run() == []


async def test_another_process_writes_nothing_either(cluster: Cluster) -> None:
    await cluster.run()
    other = Cluster()
    other.api.objects = cluster.api.objects
    assert await other.run() == []
    await other.workers.close()


async def test_a_child_that_was_edited_by_hand_is_put_back_and_that_is_told(cluster: Cluster) -> None:
    await cluster.run()
    cluster.edit_service(selector={"nobody": "here"})
    assert await cluster.run() == [("apply", SERVICE.path("default", "small-router"))]
    assert "spec.selector" in cluster.events()["ChildRestored"]


async def test_an_invalid_spec_changes_nothing_but_the_status(cluster: Cluster) -> None:
    await cluster.run()
    cluster.change("tenancy", reasoningTokens=100)
    assert await cluster.run() == [("patch", f"{PATH}/status")]
    accepted = cluster.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert "spec.tenancy" in accepted["message"]
    assert cluster.resource["status"]["observedGeneration"] == 2
    assert "InvalidSpec" in cluster.events()


async def test_while_a_spec_is_invalid_the_last_valid_one_stays_in_force(cluster: Cluster) -> None:
    await cluster.run()
    cluster.change("tenancy", reasoningTokens=100)
    await cluster.run()
    other = Cluster()  # an operator that never saw the valid one
    other.api.objects = cluster.api.objects
    other.api.remove(SERVICE, "default", "small-router")
    assert ("apply", SERVICE.path("default", "small-router")) in await other.run()
    await other.workers.close()


async def test_a_spec_that_never_was_valid_makes_nothing(cluster: Cluster) -> None:
    cluster.change("tenancy", reasoningTokens=100)
    await cluster.run()
    assert cluster.names(DEPLOYMENT) == []
    assert cluster.condition("Ready")["reason"] == "InvalidSpec"


async def test_a_change_of_what_can_not_change_is_refused_even_where_the_server_let_it_through(
    cluster: Cluster,
) -> None:
    await cluster.run()
    cluster.change("model", name="another/model")
    await cluster.run()
    assert cluster.condition("Accepted")["reason"] == "InvalidSpec"
    assert "spec.model.name" in cluster.condition("Accepted")["message"]


async def test_what_is_forbidden_is_told_with_verb_and_resource_and_the_rest_is_done(cluster: Cluster) -> None:
    def refuse(verb: str, path: str) -> ApiError | None:
        wanted = verb == "apply" and "/services/" in path
        return Forbidden("apply", "services", 403, "Forbidden", "no rights") if wanted else None

    cluster.api.refusals.append(refuse)
    with pytest.raises(Forbidden):
        await cluster.run()
    ready = cluster.condition("Ready")
    assert ready["reason"] == "Forbidden"
    assert "apply services" in ready["message"]
    assert len(cluster.names(DEPLOYMENT)) == 2
    cluster.api.refusals.clear()
    await cluster.run()
    assert cluster.condition("Ready")["reason"] != "Forbidden"


async def test_a_child_that_the_server_refuses_is_a_matter_of_the_spec(cluster: Cluster) -> None:
    await cluster.run()
    cluster.change("engine", image="two")

    def refuse(verb: str, path: str) -> ApiError | None:
        wanted = verb == "apply" and "/deployments/small-flexible" in path
        return Invalid("apply", "deployments.apps", 422, "Invalid", "spec.template: no") if wanted else None

    cluster.api.refusals.append(refuse)
    with pytest.raises(Invalid):
        await cluster.run()
    accepted = cluster.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "ChildRefused")
    assert "spec.template: no" in accepted["message"]


async def test_another_image_makes_another_workload_and_leaves_the_old_one(cluster: Cluster) -> None:
    await cluster.run()
    before = cluster.names(DEPLOYMENT)
    cluster.change("engine", image="two")
    await cluster.run()
    assert set(before) < set(cluster.names(DEPLOYMENT))
    assert cluster.condition("Progressing")["reason"] == "RollingOut"


async def test_a_pass_of_a_replica_that_does_not_lead_writes_nothing(cluster: Cluster) -> None:
    cluster.leads = False
    with pytest.raises(NotLeader):
        await cluster.run()
    assert cluster.api.writes == []


async def test_a_namespace_that_goes_is_left_alone(cluster: Cluster) -> None:
    gone = NamespaceGoing("apply", "configmaps", 403, "Forbidden", "is being terminated")
    cluster.api.refusals.append(lambda verb, _: gone if verb == "apply" else None)
    assert await cluster.run() == []


async def test_an_operator_that_can_not_see_everything_says_so_and_touches_nothing(cluster: Cluster) -> None:
    await cluster.run()
    cluster.api.writes.clear()
    await cluster.reconciler.cannot_see(KEY, "list networkpolicies: no rights (403 Forbidden)")
    assert cluster.api.writes[0] == ("patch", f"{PATH}/status")
    assert cluster.condition("Ready")["reason"] == "Forbidden"
    assert "list networkpolicies" in cluster.condition("Progressing")["message"]


async def test_a_deployment_that_is_being_deleted_is_left_to_the_garbage_collector(cluster: Cluster) -> None:
    cluster.resource["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert await cluster.run() == []


async def test_equal_events_are_one_that_counts(cluster: Cluster) -> None:
    await cluster.run()
    for _ in range(3):
        cluster.edit_service(selector={"nobody": "here"})
        await cluster.run()
    restored = [raw for path, raw in cluster.api.objects.items() if raw.get("reason") == "ChildRestored"]
    assert [event["count"] for event in restored] == [3]


async def test_configuration_that_nothing_reads_any_more_is_removed_but_only_our_own(cluster: Cluster) -> None:
    await cluster.run()
    mine = {
        "metadata": {
            "name": "mine",
            "namespace": "default",
            "labels": {labels.DEPLOYMENT: "small"},
        },
        "immutable": True,
    }
    cluster.api.put(CONFIG_MAP, mine)
    old = next(name for name in cluster.names(CONFIG_MAP) if "router-config" in name)
    cluster.change("routing", localPrefillTokens=77)
    await cluster.run()
    await cluster.run()
    assert old not in cluster.names(CONFIG_MAP)
    assert "mine" in cluster.names(CONFIG_MAP)


def test_names_that_are_too_long_for_a_label_have_a_key_of_their_own() -> None:
    long = {"metadata": {"name": "n" * 100, "namespace": "default"}}
    assert len(key_of(long).deployment) <= 63
