"""What the operator knows of the cluster: ModelDeployments and everything that carries their labels, by deployment.

Watches write into it, passes read from it. It holds what the API server holds, so it is as bounded as that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from paceline.api import labels
from paceline.controller.api import Json, KubeApi
from paceline.controller.kinds import CHILDREN, POD, Kind
from paceline.controller.metrics import OperatorMetrics
from paceline.controller.watch import WatchCache
from paceline.policy.lifecycle.observed import Pod, read_pod
from paceline.policy.resources.common import dns_label

SELECTOR: Final = "app.kubernetes.io/managed-by=paceline"
"""What every child carries, pods included."""

N = TypeVar("N")
V = TypeVar("V")


class Key(NamedTuple):
    """A ModelDeployment as its children name it: by the label, which is the name as far as that is short enough."""

    namespace: str
    deployment: str


def key_of(resource: Json) -> Key:
    """Key of a ModelDeployment as the API server has it."""
    return Key(resource["metadata"]["namespace"], dns_label(resource["metadata"]["name"]))


def named(namespace: str, name: str) -> Key:
    """Key of the ModelDeployment of that name."""
    return Key(namespace, dns_label(name))


class ClusterState:
    """All caches, and an index of their content by deployment."""

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str | None,
        metrics: OperatorMetrics,
        changed: Callable[[Key], None],
    ) -> None:
        self.available: frozenset[str] = frozenset()
        """Ids of the kinds that the cluster has."""
        self.caches: dict[str, WatchCache[Json]] = {}
        self._api = api
        self._namespace = namespace
        self._metrics = metrics
        self._changed = changed
        self._resources: dict[Key, Json] = {}
        self._children: defaultdict[Key, dict[tuple[str, str], Json]] = defaultdict(dict)
        self._pods: defaultdict[Key, dict[str, Pod]] = defaultdict(dict)
        self.pods = WatchCache(
            api,
            POD,
            namespace=namespace,
            selector=SELECTOR,
            keep=read_pod,
            changed=self._pod_changed,
            metrics=metrics,
        )

    def see_kinds(self, available: frozenset[str]) -> tuple[WatchCache[Json], ...]:
        """The cluster has these kinds now; caches of those that it did not have before, to be run."""
        new = tuple(
            WatchCache(
                self._api,
                kind,
                namespace=self._namespace,
                selector=SELECTOR,
                keep=_slim,
                changed=self._child_changed(kind),
                metrics=self._metrics,
            )
            for kind in CHILDREN
            if kind.id in available - self.available
        )
        for gone in self.available - available:
            self.caches.pop(gone, None)
        self.caches |= {cache.kind.id: cache for cache in new}
        self.available = available
        return new

    def watches(self) -> Iterator[WatchCache[Pod] | WatchCache[Json]]:
        """All caches."""
        yield self.pods
        yield from self.caches.values()

    def trouble(self) -> str | None:
        """Why not everything has been seen yet; None when all caches are complete."""
        if not self.caches:
            return "the kinds of the cluster are not known yet"
        for cache in self.watches():
            if not cache.synced.is_set():
                return cache.trouble or f"{cache.kind.resource} have not been listed yet"
        return None

    def deployments(self) -> tuple[Key, ...]:
        """All ModelDeployments."""
        return tuple(self._resources)

    def resource(self, key: Key) -> Json | None:
        """The ModelDeployment as last seen."""
        return self._resources.get(key)

    def put_resource(self, raw: Json) -> None:
        """Take in a ModelDeployment, unless a newer one is known."""
        key = key_of(raw)
        known = self._resources.get(key)
        if known is not None and known["metadata"]["uid"] == raw["metadata"]["uid"]:
            versions = [str(each["metadata"]["resourceVersion"]) for each in (raw, known)]
            if all(version.isdigit() for version in versions) and int(versions[0]) <= int(versions[1]):
                return
        self._resources[key] = _slim(raw)
        self._changed(key)

    def remove_resource(self, key: Key) -> None:
        """The ModelDeployment is gone."""
        if self._resources.pop(key, None) is not None:
            self._changed(key)

    def child(self, key: Key, kind: Kind, name: str) -> Json | None:
        """One child as last seen."""
        return self._children[key].get((kind.id, name)) if key in self._children else None

    def owned(self, key: Key, uid: str, *kinds: Kind) -> tuple[Json, ...]:
        """Children of ``kinds`` that the ModelDeployment with ``uid`` controls. Others may carry its labels too."""
        wanted = {kind.id for kind in kinds}
        found = self._children.get(key, {})
        return tuple(raw for (kind, _), raw in found.items() if kind in wanted and _controller(raw) == uid)

    def pods_of(self, key: Key) -> tuple[Pod, ...]:
        """Pods of all components."""
        return tuple(self._pods[key].values()) if key in self._pods else ()

    def _pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        pod = after or before
        if pod is None:
            return
        key = Key(pod.namespace, pod.deployment)
        if before is not None and before.deployment != pod.deployment:
            former = Key(before.namespace, before.deployment)
            _drop(self._pods, former, before.name)
            self._changed(former)
        if after is None:
            _drop(self._pods, key, pod.name)
        else:
            self._pods[key][pod.name] = after
        self._changed(key)

    def _child_changed(self, kind: Kind) -> Callable[[Json | None, Json | None], None]:
        def changed(before: Json | None, after: Json | None) -> None:
            raw = after or before
            if raw is None:
                return
            key, name = _owner_key(raw), (kind.id, raw["metadata"]["name"])
            if before is not None and (former := _owner_key(before)) != key:
                # Somebody changed its label. Who owned it will miss it and take it back.
                _drop(self._children, former, name)
                self._changed(former)
            if after is None:
                _drop(self._children, key, name)
            else:
                self._children[key][name] = after
            self._changed(key)

        return changed


def _controller(child: Json) -> str | None:
    owners = child["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _owner_key(child: Json) -> Key:
    metadata = child["metadata"]
    return Key(metadata["namespace"], (metadata.get("labels") or {}).get(labels.DEPLOYMENT, ""))


def _drop(index: dict[Key, dict[N, V]], key: Key, name: N) -> None:
    members = index.get(key)
    if members is not None:
        members.pop(name, None)
        if not members:
            del index[key]


def _slim(raw: Json) -> Json:
    """Without ``managedFields``: half of an object, and nobody reads them."""
    metadata = raw["metadata"]
    if "managedFields" not in metadata:
        return raw
    return {**raw, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}
