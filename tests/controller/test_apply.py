from __future__ import annotations

import copy
from typing import Any

import pytest

from paceline.api import labels
from paceline.controller.apply import AppliedAsIs, differences, edited_by_hand, stamped

CHILD: dict[str, Any] = {
    "metadata": {"name": "a", "namespace": "default", "labels": {"x": "y"}},
    "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}], "empty": {}},
}


def found(**spec: Any) -> dict[str, Any]:
    """What the server shows of the child: defaults filled in, fields of others beside ours."""
    raw = copy.deepcopy(stamped(CHILD))
    raw["metadata"] |= {"uid": "u", "resourceVersion": "5", "generation": 1}
    raw["spec"] |= {"type": "ClusterIP", **spec}
    raw["spec"].pop("empty")
    raw["spec"]["ports"] = [{**port, "protocol": "TCP"} for port in raw["spec"]["ports"]]
    return raw


def test_defaults_and_what_others_wrote_are_no_difference() -> None:
    assert differences(stamped(CHILD), found()) == []


@pytest.mark.parametrize(
    ("edit", "path"),
    [
        ({"selector": {"a": "c"}}, "spec.selector.a"),
        ({"selector": {}}, "spec.selector.a"),
        ({"ports": [{"port": 81}]}, "spec.ports[0].port"),
        ({"ports": [{"port": 80}, {"port": 81}]}, "spec.ports"),
    ],
)
def test_a_field_that_somebody_edited_is_a_difference_with_its_path(edit: dict[str, Any], path: str) -> None:
    wanted, now = stamped(CHILD), found(**edit)
    assert differences(wanted, now) == [path]
    assert edited_by_hand(wanted, now) == [path]


def test_a_field_that_is_no_longer_wanted_is_a_difference_by_the_hash() -> None:
    smaller = copy.deepcopy(CHILD)
    del smaller["metadata"]["labels"]["x"]
    assert differences(stamped(smaller), found()) == [f"metadata.annotations.{labels.APPLIED}"]
    assert edited_by_hand(stamped(smaller), found()) == []


def test_what_the_server_writes_in_other_words_counts_as_current_until_either_changes() -> None:
    known, wanted = AppliedAsIs(), stamped(CHILD)
    answer = found(ports=[{"port": "http"}])
    known.remember("key", "v1/Service", wanted, answer)
    assert known.is_current("key", "v1/Service", wanted, answer)
    edited = copy.deepcopy(answer)
    edited["metadata"]["generation"] = 2
    assert not known.is_current("key", "v1/Service", wanted, edited)
    other = stamped({**CHILD, "spec": {}})
    assert not known.is_current("key", "v1/Service", other, answer)
    known.forget("key")
    assert not known.is_current("key", "v1/Service", wanted, answer)
