from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.api.v1alpha1 import PodTemplate
from paceline.errors import SpecError
from paceline.policy.resources.patch import merge_pod_template

BUILT: dict[str, Any] = {
    "metadata": {"labels": {"app": "paceline"}},
    "spec": {
        "containers": [
            {
                "name": "engine",
                "image": "built",
                "env": [{"name": "A", "value": "1"}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                "command": ["python"],
            }
        ],
        "volumes": [{"name": "home", "emptyDir": {}}],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    },
}


def merged(**parts: Any) -> dict[str, Any]:
    return merge_pod_template(BUILT, PodTemplate(**parts), path="spec.engine.podTemplate", source="test")


def spec(patch: Any) -> dict[str, Any]:
    return merged(spec=patch)["spec"]


def engine(patch: dict[str, Any]) -> dict[str, Any]:
    (container,) = spec({"containers": [{"name": "engine", **patch}]})["containers"]
    return container


def test_nothing_changes_without_a_template() -> None:
    assert merge_pod_template(BUILT, None, path="x", source="test") == BUILT
    assert merged() == BUILT


def test_labels_are_added() -> None:
    assert merged(metadata={"labels": {"team": "a"}})["metadata"]["labels"] == {"app": "paceline", "team": "a"}


def test_a_scalar_is_replaced_and_mappings_are_merged() -> None:
    assert spec({"securityContext": {"runAsNonRoot": False}})["securityContext"] == {
        "runAsNonRoot": False,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_null_removes() -> None:
    assert "securityContext" not in spec({"securityContext": None})


def test_a_container_of_the_same_name_is_merged() -> None:
    container = engine({"resources": {"limits": {"memory": "1Gi"}}})
    assert container["image"] == "built"
    assert container["resources"] == {"limits": {"memory": "1Gi"}}


def test_a_container_of_another_name_is_added() -> None:
    names = [entry["name"] for entry in spec({"containers": [{"name": "sidecar", "image": "s"}]})["containers"]]
    assert names == ["engine", "sidecar"]


def test_a_variable_is_replaced_as_a_whole_so_that_it_never_has_two_values() -> None:
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    assert engine({"env": [{"name": "A", "valueFrom": reference}]})["env"] == [{"name": "A", "valueFrom": reference}]


def test_a_volume_is_replaced_as_a_whole_so_that_it_never_has_two_kinds() -> None:
    claim = {"name": "home", "persistentVolumeClaim": {"claimName": "cache"}}
    assert spec({"volumes": [claim]})["volumes"] == [claim]


def test_mounts_are_merged_by_their_path() -> None:
    mounts = engine({"volumeMounts": [{"name": "x", "mountPath": "/x"}]})["volumeMounts"]
    assert [mount["mountPath"] for mount in mounts] == ["/tmp", "/x"]


def test_other_lists_are_replaced() -> None:
    assert engine({"command": ["sh"]})["command"] == ["sh"]


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"containers": {}}, "spec.engine.podTemplate.spec.containers: must be a list"),
        ({"containers": [{"image": "x"}]}, "spec.engine.podTemplate.spec.containers[0]: must be a mapping with name"),
        ({"containers": ["x"]}, "spec.engine.podTemplate.spec.containers[0]: must be a mapping with name"),
        ({"securityContext": "x"}, "spec.engine.podTemplate.spec.securityContext: must be a mapping"),
        (
            {"containers": [{"name": "engine", "env": [5]}]},
            "spec.engine.podTemplate.spec.containers[0].env[0]: must be a mapping with name",
        ),
    ],
)
def test_a_shape_that_does_not_fit_is_named(patch: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(patch)
    assert str(caught.value.problems[0]).startswith(message)


@pytest.mark.parametrize("amount", ["4Gi", "500m", "2", "1.5", ".5", "1e3", "100M", 2, 1.5, None])
def test_amounts_are_what_kubernetes_calls_quantities(amount: Any) -> None:
    assert "memory" in engine({"resources": {"requests": {"memory": amount}}})["resources"]["requests"]


@pytest.mark.parametrize("amount", ["4GiB", "4 Gi", "4g", "", "Gi", "1e", "two"])
def test_an_amount_in_another_notation_is_named_before_an_api_server_sees_it(amount: str) -> None:
    with pytest.raises(SpecError) as caught:
        engine({"resources": {"requests": {"cpu": "2"}, "limits": {"memory": amount}}})
    assert [str(problem) for problem in caught.value.problems] == [
        "spec.engine.podTemplate.spec.containers[0].resources.limits.memory: must be an amount such as 4Gi, 500m or 2"
        f" (found {amount!r})"
    ]


def test_a_container_without_an_image_is_most_likely_a_misspelt_one_of_ours() -> None:
    with pytest.raises(SpecError) as caught:
        spec({"containers": [{"name": "vllm", "resources": {}}]})
    assert [str(problem) for problem in caught.value.problems] == [
        "spec.engine.podTemplate.spec.containers[0].image: is required for a container that is added; engine is there"
        " already, and needs none"
    ]


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["containers", "volumes", "securityContext", "nodeName"]), json, max_size=4))
def test_any_patch_is_merged_or_refused_and_what_was_built_stays_untouched(patch: dict[str, Any]) -> None:
    before = copy.deepcopy(BUILT)
    with contextlib.suppress(SpecError):
        spec(patch)
    assert before == BUILT


def test_merging_a_template_into_itself_changes_nothing() -> None:
    assert merged(metadata=BUILT["metadata"], spec=BUILT["spec"]) == BUILT
