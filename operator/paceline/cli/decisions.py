"""``paceline explain NAME``: the planner's last decisions in plain words, from the cluster or from a local run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paceline.cli.words import counts_in_words, sentences
from paceline.errors import ConfigError

MAX_FILE_BYTES = 16 * 1024 * 1024
TOLD = ("MetricsAvailable", "ScalingLimited")
"""Conditions that say something of decisions."""


def of_cluster(name: str, namespace: str | None, context: str | None) -> dict[str, Any]:
    """The ModelDeployment. Raises ClusterError when it can't be had, ConfigError without a cluster to ask."""
    from paceline.cli.cluster import Cluster
    from paceline.clock import WallClock

    try:
        cluster = Cluster(WallClock(), context=context, namespace=namespace)
    except ConfigError as error:
        raise ConfigError(f"{error} For a local run give --run-dir.") from None
    return cluster.deployment(name)


def of_run(folder: Path) -> dict[str, Any]:
    """What a local run wrote down last. Raises ConfigError."""
    import json

    from paceline.local.planning import FILE

    path = folder / FILE
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES)
        return dict(json.loads(text))
    except OSError as error:
        why = error.strerror
        if not folder.is_dir():
            why = "there is no such folder; a `paceline up` names its own where it says where the logs are"
        elif not path.exists():
            why = "it has not decided anything yet, or nobody plans there"
        raise ConfigError(f"--run-dir: can't read {path}: {why}.") from None
    except ValueError as error:
        raise ConfigError(f"--run-dir: {path} is damaged: {error}.") from None


def document_of(resource: dict[str, Any]) -> dict[str, Any]:
    """For programs: what :func:`lines_of` says, all decisions that are kept."""
    status = resource.get("status") or {}
    document = {"roles": status.get("roles"), "scaling": status.get("scaling")}
    document["conditions"] = [one for one in status.get("conditions") or () if one.get("type") in TOLD]
    if resource.get("now"):
        document["now"] = resource["now"]
    return document


def lines_of(resource: dict[str, Any], *, most: int) -> Iterator[str]:
    """The explanation, ``most`` decisions of it."""
    metadata, status = resource.get("metadata", {}), resource.get("status") or {}
    mode = (resource.get("spec") or {}).get("scaling", {}).get("mode", "Auto")
    scaling = status.get("scaling") or {}
    yield f"{metadata.get('namespace', 'default')}/{metadata.get('name')}: scaling mode {mode}"
    desired = {role: one.get("desired", 0) for role, one in (status.get("roles") or {}).items()}
    if desired:
        yield f"asked for now: {counts_in_words(desired)}"
    if scaling.get("recommended"):
        yield f"the planner would have: {counts_in_words(scaling['recommended'])}"
    for condition in status.get("conditions") or ():
        if condition.get("type") in TOLD and (condition.get("message") or condition.get("status") != "True"):
            yield f"{condition['type']} is {condition['status']}: {condition['reason']}. {condition.get('message', '')}"
    if resource.get("now"):
        yield ""
        yield "the last look:"
        yield from (f"  {sentence}" for sentence in resource["now"])
    history = list(scaling.get("history") or ())
    yield ""
    yield f"last {min(most, len(history))} decisions, newest first:" if history else "no change has been decided yet"
    for decision in history[:most]:
        change = f"{counts_in_words(decision.get('before', {}))} -> {counts_in_words(decision.get('after', {}))}"
        yield f"{decision.get('time')}  {change}  (bound by {decision.get('limit')})"
        yield from (f"  {sentence}" for sentence in sentences(decision.get("reason", "")))
