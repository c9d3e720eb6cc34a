from __future__ import annotations

from typing import Any

import pytest

from paceline.api import labels, wire
from paceline.errors import SpecError
from paceline.policy.resources import EngineChildren, Images, hardware_pools
from paceline.policy.resources.engine import engine_children
from tests.api.documents import deployment, sample


def built(md: Any, *, pool: int = 0, replicas: int | None = None) -> EngineChildren:
    return engine_children(md, hardware_pools(md.spec)[pool], images=Images(), replicas=replicas)


def container(children: EngineChildren) -> dict[str, Any]:
    return children.pod_template["spec"]["containers"][0]


def environment(children: EngineChildren) -> dict[str, Any]:
    return {entry["name"]: entry for entry in container(children)["env"]}


class TestTheWorkload:
    def test_is_a_deployment_where_an_engine_is_one_pod(self) -> None:
        workload = built(sample("quickstart")).workload
        assert workload["kind"] == "Deployment"

    def test_is_another_one_for_another_template_so_that_old_and_new_engines_stand_side_by_side(self) -> None:
        before, after = (built(deployment(engine={"image": image})) for image in ("a", "b"))
        assert before.workload["metadata"]["name"] == f"small-flexible-{before.template_hash}"
        assert after.workload["metadata"]["name"] == f"small-flexible-{after.template_hash}"
        assert before.template_hash != after.template_hash

    def test_leaves_replicas_to_the_planner_unless_they_are_given(self) -> None:
        assert "replicas" not in built(sample("quickstart")).workload["spec"]
        assert built(sample("quickstart"), replicas=4).workload["spec"]["replicas"] == 4
        assert built(sample("multi-node"), replicas=0).workload["spec"]["replicas"] == 0

    def test_selects_exactly_its_own_pods(self) -> None:
        children = built(sample("quickstart"))
        selector = children.workload["spec"]["selector"]["matchLabels"]
        assert selector == {
            labels.DEPLOYMENT: "quickstart",
            labels.COMPONENT: "engine",
            labels.POOL: "flexible",
            labels.TEMPLATE: children.template_hash,
        }
        assert selector.items() <= children.pod_template["metadata"]["labels"].items()

    def test_never_runs_more_engines_than_planned_during_a_roll_out(self) -> None:
        assert built(sample("quickstart")).workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0

    def test_rolls_out_when_the_configuration_changes(self) -> None:
        before, after = (built(deployment(engine={"drainSeconds": seconds})) for seconds in (10, 20))
        assert before.pod_template != after.pod_template
        assert before.config_map["metadata"]["name"] != after.config_map["metadata"]["name"]

    def test_does_not_roll_out_when_only_bounds_or_routing_change(self) -> None:
        after = deployment(
            scaling={"gpuBudget": 8}, routing={"replicas": 4}, slo={"ttftMilliseconds": 1, "itlMilliseconds": 1}
        )
        assert built(deployment()).workload == built(after).workload


class TestTheRole:
    def test_is_no_part_of_a_template_whose_engines_change_roles(self) -> None:
        assert labels.ROLE not in built(sample("quickstart")).pod_template["metadata"]["labels"]

    def test_is_fixed_where_hardware_differs(self) -> None:
        md = sample("heterogeneous")
        roles = [built(md, pool=index).pod_template["metadata"]["labels"][labels.ROLE] for index in (0, 1)]
        assert roles == ["prefill", "decode"]

    def test_is_never_part_of_a_selector(self) -> None:
        assert labels.ROLE not in built(sample("heterogeneous")).workload["spec"]["selector"]["matchLabels"]


class TestThePod:
    def test_runs_the_engine_worker_with_the_configuration_from_the_config_map(self) -> None:
        children = built(sample("quickstart"))
        assert container(children)["command"] == ["python", "-m", "paceline_worker.engine"]
        reference = environment(children)["PACELINE_ENGINE_CONFIG"]["valueFrom"]["configMapKeyRef"]
        assert reference["name"] == children.config_map["metadata"]["name"]
        document = children.config_map["data"][reference["key"]]
        assert wire.decode(wire.EngineConfig, document, source="test").served_names == ("qwen3-32b",)

    def test_knows_its_name_namespace_and_address(self) -> None:
        fields = {
            name: environment(built(deployment()))[name]["valueFrom"]["fieldRef"]["fieldPath"]
            for name in ("POD_NAME", "POD_NAMESPACE", "POD_IP")
        }
        assert fields == {
            "POD_NAME": "metadata.name",
            "POD_NAMESPACE": "metadata.namespace",
            "POD_IP": "status.podIP",
        }

    def test_has_the_serving_gate(self) -> None:
        assert built(deployment()).pod_template["spec"]["readinessGates"] == [{"conditionType": "paceline.dev/serving"}]

    def test_says_which_revision_it_runs(self) -> None:
        assert built(deployment()).pod_template["metadata"]["labels"][labels.REVISION]

    def test_is_probed_on_the_admin_port(self) -> None:
        probes = {kind: container(built(deployment()))[kind]["httpGet"] for kind in ("readinessProbe", "livenessProbe")}
        assert probes == {
            "readinessProbe": {"path": "/readyz", "port": "admin"},
            "livenessProbe": {"path": "/healthz", "port": "admin"},
        }

    def test_exposes_the_ports_of_its_configuration(self) -> None:
        ports = {entry["name"]: entry["containerPort"] for entry in container(built(deployment()))["ports"]}
        assert ports == {"api": 8000, "admin": 8080, "kv-side-channel": 5600, "kv-events": 20080, "kv-replay": 21080}
        assert all(len(name) <= 15 for name in ports)

    def test_has_longer_to_stop_than_its_drain(self) -> None:
        spec = built(deployment(engine={"drainSeconds": 120})).pod_template["spec"]
        assert spec["terminationGracePeriodSeconds"] == 150

    def test_meets_the_restricted_pod_security_standard(self) -> None:
        children = built(deployment())
        assert children.pod_template["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container(children)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }

    def test_has_a_volume_for_every_mount(self) -> None:
        for name in ("quickstart", "heterogeneous", "cpu", "disaggregated-h200", "multi-node"):
            spec = built(sample(name)).pod_template["spec"]
            volumes = {volume["name"] for volume in spec["volumes"]}
            assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} <= volumes

    def test_lands_on_nodes_with_its_accelerator(self) -> None:
        children = built(sample("heterogeneous"), pool=1)
        assert children.pod_template["spec"]["nodeSelector"] == {
            "topology.kubernetes.io/zone": "zone-a",
            "nvidia.com/gpu.product": "NVIDIA-H200",
        }
        assert children.pod_template["spec"]["tolerations"] == [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
        assert container(children)["resources"]["limits"] == {"nvidia.com/gpu": "2"}

    def test_asks_for_no_accelerator_on_cpus(self) -> None:
        cpu = {"maxReplicas": 1, "accelerator": {"count": 0}}
        children = built(deployment(pools={"prefill": cpu, "decode": cpu}))
        assert "resources" not in container(children)
        assert "nodeSelector" not in children.pod_template["spec"]

    def test_mounts_the_volume_with_the_weights_read_only(self) -> None:
        source = {"type": "PersistentVolumeClaim", "persistentVolumeClaim": {"claimName": "models", "path": "x"}}
        children = built(deployment(model={"name": "m", "source": source}))
        assert {"name": "model", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in (
            children.pod_template["spec"]["volumes"]
        )
        assert {"name": "model", "mountPath": "/var/lib/paceline/model", "readOnly": True} in (
            container(children)["volumeMounts"]
        )

    def test_has_room_on_disk_for_a_disk_tier(self) -> None:
        children = built(deployment(engine={"kvCache": {"diskTier": {"sizeGiB": 100}}}))
        assert {"name": "kv-disk", "emptyDir": {"sizeLimit": "100Gi"}} in children.pod_template["spec"]["volumes"]
        assert {"name": "kv-disk", "mountPath": wire.KvCache().disk_path} in container(children)["volumeMounts"]

    def test_gets_the_token_of_the_hub_from_its_secret(self) -> None:
        source = {"huggingFace": {"tokenSecret": {"name": "hub", "key": "token"}}}
        token = environment(built(deployment(model={"name": "m", "source": source})))["HF_TOKEN"]
        assert token["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}

    def test_prefers_the_users_own_variable(self) -> None:
        source = {"huggingFace": {"tokenSecret": {"name": "hub", "key": "token"}}}
        own = [
            {"name": "HF_TOKEN", "value": "mine"},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ]
        variables = container(built(deployment(model={"name": "m", "source": source}, engine={"env": own})))["env"]
        assert [entry for entry in variables if entry["name"] in {"HF_TOKEN", "B"}] == own


class TestThePodTemplateOfTheUser:
    def test_is_merged_last(self) -> None:
        patch = {"spec": {"priorityClassName": "high", "containers": [{"name": "engine", "image": "mine"}]}}
        children = built(deployment(engine={"image": "spec", "podTemplate": patch}))
        assert children.pod_template["spec"]["priorityClassName"] == "high"
        assert container(children)["image"] == "mine"

    def test_cannot_take_the_pods_away_from_their_workload(self) -> None:
        patch = {"metadata": {"labels": {labels.POOL: "elsewhere", "team": "a"}}}
        found = built(deployment(engine={"podTemplate": patch})).pod_template["metadata"]["labels"]
        assert (found[labels.POOL], found["team"]) == ("flexible", "a")

    def test_that_does_not_fit_is_refused_with_its_path(self) -> None:
        with pytest.raises(SpecError, match=r"spec\.engine\.podTemplate\.spec\.containers\[0\]"):
            built(deployment(engine={"podTemplate": {"spec": {"containers": [{}]}}}))


class TestAnEngineOverSeveralNodes:
    def test_is_a_leader_worker_set_with_one_pod_a_node(self) -> None:
        workload = built(sample("multi-node")).workload
        assert (workload["apiVersion"], workload["kind"]) == ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
        template = workload["spec"]["leaderWorkerTemplate"]
        assert (template["size"], template["restartPolicy"]) == (2, "RecreateGroupOnPodRestart")

    def test_takes_requests_at_its_leader_only(self) -> None:
        children = built(sample("multi-node"))
        follower = children.workload["spec"]["leaderWorkerTemplate"]["workerTemplate"]
        assert children.pod_template["metadata"]["labels"][labels.COMPONENT] == "engine"
        assert follower["metadata"]["labels"][labels.COMPONENT] == "engine-follower"
        assert "readinessGates" not in follower["spec"]
        assert "readinessProbe" not in follower["spec"]["containers"][0]
        assert labels.ROLE not in follower["metadata"]["labels"]

    def test_has_the_same_accelerators_in_every_pod(self) -> None:
        template = built(sample("multi-node")).workload["spec"]["leaderWorkerTemplate"]
        for part in ("leaderTemplate", "workerTemplate"):
            limits = template[part]["spec"]["containers"][0]["resources"]["limits"]
            assert limits == {"nvidia.com/gpu": "8", "rdma/hca": "8"}


def test_every_data_parallel_rank_of_a_pod_has_ports_for_its_cache_events() -> None:
    def ports(*, data: int, **engine: Any) -> dict[str, int]:
        pool = {"maxReplicas": 1, "accelerator": {"count": data}}
        md = deployment(engine={"parallelism": {"data": data}, **engine}, pools={"prefill": pool, "decode": pool})
        found = {entry["name"]: entry["containerPort"] for entry in container(built(md))["ports"]}
        return {name: number for name, number in found.items() if name.startswith(("kv-events", "kv-replay"))}

    assert ports(data=1) == {"kv-events": 20080, "kv-replay": 21080}
    assert ports(data=2) == {"kv-events": 20080, "kv-events-1": 20081, "kv-replay": 21080, "kv-replay-1": 21081}
    emulated = [{"name": "PACELINE_ENGINE_BACKEND", "value": "emulator"}]
    assert ports(data=2, env=emulated) == ports(data=1), "an emulated engine has one cache"
