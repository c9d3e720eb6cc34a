"""``paceline explain NAME``: the planner's last decisions in plain words, from the cluster or from a local run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paceline.errors import ClusterError, ConfigError

MAX_FILE_BYTES = 16 * 1024 * 1024
TOLD = ("MetricsAvailable", "ScalingLimited")
"""Conditions that say something of decisions."""


def of_cluster(name: str, namespace: str | None) -> dict[str, Any]:
    """The ModelDeployment. Raises ClusterError when it can't be had, ConfigError without a cluster to ask."""
    import kubernetes

    from paceline.api.labels import GROUP, PLURAL, VERSION

    # The package has no types.
    config: Any = kubernetes.config
    client: Any = kubernetes.client
    try:
        config.load_config()
    except (config.ConfigException, OSError) as error:
        raise ConfigError(f"no cluster to ask: {error} For a local run give --run-dir.") from None
    where = namespace or _context_namespace(config)
    try:
        found: dict[str, Any] = client.CustomObjectsApi().get_namespaced_custom_object(
            GROUP, VERSION, where, PLURAL, name
        )
    except client.ApiException as error:
        if error.status == 404:
            raise ClusterError(f"There is no ModelDeployment {name} in namespace {where}.") from None
        raise ClusterError(f"The API server answers {error.status} {error.reason}.") from None
    except OSError as error:
        raise ClusterError(f"The API server can't be reached: {error}.") from None
    return found


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
        why = "it has not decided anything yet, or nobody plans there" if not path.exists() else error.strerror
        raise ConfigError(f"--run-dir: can't read {path}: {why}.") from None
    except ValueError as error:
        raise ConfigError(f"--run-dir: {path} is damaged: {error}.") from None


def lines_of(resource: dict[str, Any], *, most: int) -> Iterator[str]:
    """The explanation, ``most`` decisions of it."""
    metadata, status = resource.get("metadata", {}), resource.get("status") or {}
    mode = (resource.get("spec") or {}).get("scaling", {}).get("mode", "Auto")
    scaling = status.get("scaling") or {}
    yield f"{metadata.get('namespace', 'default')}/{metadata.get('name')}: scaling mode {mode}"
    desired = {role: one.get("desired", 0) for role, one in (status.get("roles") or {}).items()}
    if desired:
        yield f"asked for now: {_counts(desired)}"
    if scaling.get("recommended"):
        yield f"the planner would have: {_counts(scaling['recommended'])}"
    for condition in status.get("conditions") or ():
        if condition.get("type") in TOLD and (condition.get("message") or condition.get("status") != "True"):
            yield f"{condition['type']} is {condition['status']}: {condition['reason']}. {condition.get('message', '')}"
    if resource.get("now"):
        yield ""
        yield "the last look:"
        yield from (f"  {sentence}" for sentence in resource["now"])
    history = list(scaling.get("history") or ())
    yield ""
    yield f"last {min(most, len(history))} decisions, newest first:" if history else "nothing has been decided yet"
    for decision in history[:most]:
        change = f"{_counts(decision.get('before', {}))} -> {_counts(decision.get('after', {}))}"
        yield f"{decision.get('time')}  {change}  (bound by {decision.get('limit')})"
        yield from (f"  {sentence}" for sentence in _sentences(decision.get("reason", "")))


def _context_namespace(config: Any) -> str:
    try:
        _, active = config.list_kube_config_contexts()
    except config.ConfigException:
        return "default"
    return str((active or {}).get("context", {}).get("namespace") or "default")


def _counts(counts: dict[str, Any]) -> str:
    named = [f"{count} {role}" for role, count in counts.items() if count]
    return " + ".join(named) or "no engines"


def _sentences(text: str) -> list[str]:
    parts = text.split(". ")
    return [part if part.endswith((".", "…")) else f"{part}." for part in parts if part]
