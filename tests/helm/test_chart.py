"""The chart without a cluster: what it makes for many settings, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from paceline import __version__
from paceline.policy.resources.install import cluster_rules, namespaced_rules, node_rules, own_rules
from paceline.policy.resources.network_policy import OPERATOR_LABELS, PROMETHEUS_LABELS
from tests.api.documents import ROOT
from tests.helm.charts import CHART, NAME, NAMESPACE, Manifest, install_manifest, refusal, run_helm, template
from tests.programs import promtool

MONITORING = ("--api-versions", "monitoring.coreos.com/v1/PodMonitor,monitoring.coreos.com/v1/PrometheusRule")
BUNDLED = {"bundled.prometheus.enabled": True, "bundled.grafana.enabled": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one namespace": {"operator.watchNamespace": "team-a"},
    "no rights of its own": {
        "operator.rbac.create": False, "operator.serviceAccount": {"create": False, "name": "mine"}
    },
    "bundled": BUNDLED,
    "bundled with a volume": {
        **BUNDLED, "bundled.prometheus.storage": "20Gi", "bundled.prometheus.storageClassName": "fast"
    },
    "grafana of its own": {"bundled.grafana.enabled": True, "bundled.grafana.prometheusUrl": "http://prometheus.obs:9090"},
    "little": {
        "crds.install": False, "dashboards.enabled": False, "operator.podDisruptionBudget.enabled": False,
        "operator.networkPolicy.enabled": False, "operator.replicas": 1,
    },
    "much": {
        "imagePullSecrets": ["registry"], "commonLabels": {"team": "serving"}, "commonAnnotations": {"a.b/c": "d: e"},
        "operator.image.digest": f"sha256:{'0' * 64}", "engine.image": "mirror.local:5000/worker:1",
        "router.image": f"mirror.local/router@sha256:{'1' * 64}", "operator.debug": True,
        "operator.extraArgs": ["--workers", "8"], "operator.extraEnv": [{"name": "HTTPS_PROXY", "value": "http://p:1"}],
        "operator.nodeSelector": {"disk": "ssd"}, "operator.tolerations": [{"operator": "Exists"}],
        "operator.affinity": {"nodeAffinity": {}}, "operator.priorityClassName": "system-cluster-critical",
        "operator.podLabels": {"x": "y"}, "operator.podAnnotations": {"x/y": "z"}, "metrics.labels": {"release": "kps"},
        "metrics.podMonitor": "Always", "rules.prometheusRule": "Always", "namespace.create": True,
        "crds.keep": False, "fullnameOverride": "pl",
        "planner.prometheusUrl": "https://prometheus.obs:9090", "planner.gpuQuota": 64,
        "planner.prometheusToken": {"secretName": "prometheus-token", "key": "bearer"},
    },
}  # fmt: skip


def one(manifests: list[Manifest], kind: str, name: str = NAME) -> Manifest:
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            yield manifest["spec"]["template"]["spec"]
        elif manifest["kind"] == "Pod":
            yield manifest["spec"]


def operator_container(manifests: list[Manifest], name: str = NAME) -> Manifest:
    (container,) = one(manifests, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    found: Manifest = container
    return found


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda name: name.replace(" ", "-"))
def rendered(request: pytest.FixtureRequest) -> list[Manifest]:
    return template(SETTINGS[request.param], words=MONITORING)


def test_helm_has_nothing_to_complain_of() -> None:
    assert "0 chart(s) failed" in run_helm("lint", "--strict", CHART).stdout


def test_chart_and_application_have_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__


def test_the_committed_install_manifest_is_the_chart_rendered() -> None:
    assert (ROOT / "manifests" / "install.yaml").read_text() == install_manifest()


def test_the_charts_crd_is_the_one_that_the_code_makes() -> None:
    committed = (ROOT / "crds" / "paceline.dev_modeldeployments.yaml").read_bytes()
    assert (CHART / "files" / "modeldeployments.yaml").read_bytes() == committed
    found = one(template(), "CustomResourceDefinition", "modeldeployments.paceline.dev")
    assert found["spec"] == yaml.safe_load(committed)["spec"]
    assert len(json.dumps(found)) < 1_000_000


def test_objects_of_kubernetes_fit_its_schemas(rendered: list[Manifest]) -> None:
    """The CRD and objects of the Prometheus operator are checked by a real API server in tests/kube."""
    checked = 0
    for manifest in rendered:
        if not manifest["apiVersion"].startswith(("apiextensions.k8s.io", "monitoring.coreos.com")):
            kubernetes_validate.validate(manifest, "1.31", strict=True)
            checked += 1
    assert checked >= 3


def test_no_two_objects_have_one_name(rendered: list[Manifest]) -> None:
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in rendered]
    assert len(names) == len(set(names))


def test_every_object_says_whose_it_is(rendered: list[Manifest]) -> None:
    for manifest in rendered:
        assert manifest["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm", manifest["metadata"]


def test_all_pods_meet_the_restricted_standard_and_write_to_volumes_only(rendered: list[Manifest]) -> None:
    for pod in pods(rendered):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
            }  # fmt: skip
            assert container["resources"]["limits"]["memory"]


def test_no_image_floats(rendered: list[Manifest]) -> None:
    for pod in pods(rendered):
        for container in pod["containers"]:
            assert re.search(r"(:[^:/]*\d[^:/]*|@sha256:[0-9a-f]{64})$", container["image"])


def test_selectors_find_the_pods_of_their_workloads(rendered: list[Manifest]) -> None:
    labels = {
        manifest["metadata"]["name"]: manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in rendered if manifest["kind"] == "Deployment"
    }  # fmt: skip
    for manifest in rendered:
        if manifest["kind"] in {"Deployment", "PodDisruptionBudget"}:
            selector = manifest["spec"]["selector"]["matchLabels"]
        elif manifest["kind"] == "Service":
            selector = manifest["spec"]["selector"]
        elif manifest["kind"] == "NetworkPolicy":
            selector = manifest["spec"]["podSelector"]["matchLabels"]
        else:
            continue
        assert selector.items() <= labels[manifest["metadata"]["name"]].items()


def test_network_policies_of_engines_and_routers_know_the_pods_of_the_chart() -> None:
    manifests = template(BUNDLED)
    operator = one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    prometheus = one(manifests, "Deployment", "paceline-prometheus")["spec"]["template"]["metadata"]["labels"]
    assert OPERATOR_LABELS.items() <= operator.items()
    assert PROMETHEUS_LABELS.items() <= prometheus.items()
    (rule,) = one(manifests, "NetworkPolicy")["spec"]["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"] == PROMETHEUS_LABELS


def test_an_operator_for_all_namespaces_has_exactly_its_rights() -> None:
    manifests = template()
    assert one(manifests, "ClusterRole")["rules"] == cluster_rules()
    assert one(manifests, "Role")["rules"] == own_rules()
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    for kind, role in (("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")):
        binding = one(manifests, kind)
        assert binding["subjects"] == [subject]
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (role, NAME)
    assert "--namespace" not in operator_container(manifests)["args"]


@pytest.mark.parametrize("namespace", ["", "team-a"])
def test_only_an_operator_that_is_to_taint_nodes_may_do_anything_to_them(namespace: str) -> None:
    on = {"operator.taintAfterGpuErrors": 3, "operator.watchNamespace": namespace}
    off = {"operator.watchNamespace": namespace}
    rules = [one(template(values), "ClusterRole")["rules"] for values in (on, off)]
    assert rules[0] == [*rules[1], *node_rules()]
    args = operator_container(template(on))["args"]
    assert args[args.index("--taint-after-gpu-errors") + 1] == "3"
    assert "--taint-after-gpu-errors" not in operator_container(template(off))["args"]


def test_an_operator_for_one_namespace_may_write_in_no_other() -> None:
    manifests = template({"operator.watchNamespace": "team-a"})
    assert {verb for rule in one(manifests, "ClusterRole")["rules"] for verb in rule["verbs"]} == {"list", "watch"}
    role = one(manifests, "Role", f"{NAME}-children")
    assert role["metadata"]["namespace"] == "team-a"
    assert role["rules"] == namespaced_rules()
    args = operator_container(manifests)["args"]
    assert args[args.index("--namespace") + 1] == "team-a"


def test_releases_in_two_namespaces_share_no_object_of_the_cluster() -> None:
    def of_the_cluster(namespace: str) -> set[tuple[str, str]]:
        return {
            (each["kind"], each["metadata"]["name"])
            for each in template({"crds.install": False, **BUNDLED}, namespace=namespace)
            if "namespace" not in each["metadata"]
        }

    assert of_the_cluster("one")
    assert not of_the_cluster("one") & of_the_cluster("two")


@pytest.mark.parametrize("release", ["paceline", "p", "inference-" + "x" * 43])
def test_names_of_any_release_fit(release: str) -> None:
    for manifest in template(BUNDLED, release=release):
        if manifest["kind"] != "ConfigMap":
            assert len(manifest["metadata"]["name"]) <= 63
        assert "paceline" in manifest["metadata"]["name"] or len(release) > 10


def test_the_crd_stays_when_the_release_goes_unless_told_otherwise() -> None:
    name = "modeldeployments.paceline.dev"
    policy = "helm.sh/resource-policy"
    assert one(template(), "CustomResourceDefinition", name)["metadata"]["annotations"][policy] == "keep"
    dropped = one(template({"crds.keep": False}), "CustomResourceDefinition", name)
    assert policy not in dropped["metadata"].get("annotations", {})


def test_objects_of_the_prometheus_operator_come_where_the_cluster_knows_them_or_when_asked_for() -> None:
    def kinds(manifests: list[Manifest]) -> set[str]:
        return {each["kind"] for each in manifests if each["apiVersion"].startswith("monitoring.coreos.com")}

    both = {"PodMonitor", "PrometheusRule"}
    never = {"metrics.podMonitor": "Never", "rules.prometheusRule": "Never"}
    always = {"metrics.podMonitor": "Always", "rules.prometheusRule": "Always"}
    assert kinds(template()) == set()
    assert kinds(template(words=MONITORING)) == both
    assert kinds(template(never, words=MONITORING)) == set()
    assert kinds(template(always)) == both


def test_the_budget_has_the_version_that_the_cluster_has() -> None:
    def version(*versions: str) -> str:
        words = ("--kube-version", "1.30.0", *(word for each in versions for word in ("--api-versions", each)))
        return str(one(template(words=words), "PodDisruptionBudget")["apiVersion"])

    assert version() == "policy/v1"


def test_images_of_engines_and_routers_reach_the_operator() -> None:
    args = operator_container(template(SETTINGS["much"]), "pl-operator")["args"]
    assert args[args.index("--engine-image") + 1] == "mirror.local:5000/worker:1"
    assert args[args.index("--router-image") + 1].startswith("mirror.local/router@sha256:")


def test_a_digest_wins_over_the_tag() -> None:
    values = {"operator.image.tag": "1.2.3", "operator.image.digest": f"sha256:{'a' * 64}"}
    assert operator_container(template(values))["image"] == f"ghcr.io/paceline/operator@sha256:{'a' * 64}"


def test_arguments_of_the_operator_are_some_that_it_knows() -> None:
    from paceline.cli.operator import operator

    known = {flag for parameter in operator.params for flag in parameter.opts}
    for values in SETTINGS.values():
        name = "pl-operator" if "fullnameOverride" in values else NAME
        used = {word for word in operator_container(template(values), name)["args"] if word.startswith("--")}
        assert used <= known


def test_the_test_pod_runs_a_command_that_there_is() -> None:
    from paceline.cli.check import check

    pod = one(template({"test.timeoutSeconds": 7}), "Pod", "paceline-test")
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["paceline", check.name]
    assert container["args"] == ["--timeout-seconds", "7"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["restartPolicy"] == "Never"


def test_every_dashboard_is_a_config_map_that_a_sidecar_finds() -> None:
    files = {path.name: path.read_text() for path in (CHART / "dashboards").glob("*.json")}
    found = {
        name: (content, each["metadata"]["labels"].get("grafana_dashboard"))
        for each in template() if each["kind"] == "ConfigMap" for name, content in each["data"].items()
    }  # fmt: skip
    assert found == {name: (content, "1") for name, content in files.items()}


def test_every_value_of_the_schema_has_a_default_that_can_be_read_in_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    free = {"operator.affinity", "operator.podLabels", "operator.podAnnotations", "operator.nodeSelector"}

    def known(part: Manifest, path: str = "") -> Iterator[str]:
        for name, inner in part.get("properties", {}).items():
            yield from known(inner, f"{path}.{name}") if "properties" in inner else [f"{path}.{name}".lstrip(".")]

    def given(values: Manifest, path: str = "") -> Iterator[str]:
        for name, value in values.items():
            where = f"{path}.{name}".lstrip(".")
            nested = isinstance(value, dict) and value and where not in free and name != "resources"
            yield from given(value, where) if nested else [where]

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(given(values)) == set(known(schema)) - {"global"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"operator.replicas": 99}, "/operator/replicas"),
        ({"operator.replicas": "two"}, "/operator/replicas"),
        ({"operator.image.tag": "latest"}, "/operator/image/tag"),
        ({"operator.image.digest": "sha256:abc"}, "/operator/image/digest"),
        ({"operator.image.pullPolicy": "Sometimes"}, "/operator/image/pullPolicy"),
        ({"operator.leaseSeconds": 1}, "/operator/leaseSeconds"),
        ({"operator.watchNamespace": "Team A"}, "/operator/watchNamespace"),
        ({"operator.resources": {"limit": {}}}, "additional properties 'limit'"),
        ({"operator.extraEnv": [{"value": "x"}]}, "/operator/extraEnv/0"),
        ({"engine.image": "worker:latest"}, "/engine/image"),
        ({"router.image": "router"}, "/router/image"),
        ({"metrics.podMonitor": True}, "/metrics/podMonitor"),
        ({"metrics.interval": "10"}, "/metrics/interval"),
        ({"bundled.prometheus.storage": "much"}, "/bundled/prometheus/storage"),
        ({"bundled.grafana.prometheusUrl": "prometheus:9090"}, "/bundled/grafana/prometheusUrl"),
        ({"planner.prometheusUrl": "prometheus:9090"}, "/planner/prometheusUrl"),
        ({"planner.gpuQuota": -1}, "/planner/gpuQuota"),
        ({"operator.taintAfterGpuErrors": -1}, "/operator/taintAfterGpuErrors"),
        ({"bundled.grafana.enabled": True}, "needs bundled.prometheus.enabled=true"),
        ({"operatr.replicas": 1}, "additional properties 'operatr'"),
        ({"crds.instal": False}, "additional properties 'instal'"),
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused_with_their_place(values: dict[str, Any], says: str) -> None:
    assert says in refusal(values)


def test_prometheus_finds_what_the_operator_exports_and_keeps_the_labels_that_it_gives() -> None:
    (endpoint,) = one(template(words=MONITORING), "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["honorLabels"] is True
    (port,) = operator_container(template())["ports"]
    assert endpoint["port"] == port["name"]


def test_promtool_takes_the_configuration_of_the_bundled_prometheus(tmp_path: Path) -> None:
    data = one(template(BUNDLED), "ConfigMap", "paceline-prometheus")["data"]
    configuration = yaml.safe_load(data["prometheus.yaml"].replace("/etc/prometheus", str(tmp_path)))
    # Debian's build knows no Kubernetes.
    (discovery,) = configuration["scrape_configs"][0].pop("kubernetes_sd_configs")
    assert discovery["role"] == "pod"
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    (tmp_path / "rules.yaml").write_text(data["rules.yaml"])
    done = subprocess.run(
        [promtool(), "check", "config", tmp_path / "prometheus.yaml"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
