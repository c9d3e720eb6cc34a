"""What commands ask a Kubernetes cluster, and the little that they write. Called by every command that asks one.

Credentials come from the kubeconfig as kubectl reads it, plug-ins that fetch tokens included, which is why this is not
the operator's client. Every request ends in an answer or in a sentence that says what to do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from paceline.api import labels
from paceline.clock import Clock
from paceline.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    import kopf

Json = dict[str, Any]

REQUEST_SECONDS: Final = 15.0
PAGE: Final = 500
MOST_PAGES: Final = 40
"""Pages of one list that are read: 20,000 objects."""
NAMED: Final = 5
"""Other deployments that a message names."""
FIELD_MANAGER: Final = "paceline-cli"
MERGE: Final = "application/merge-patch+json"
ACCOUNT_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod finds the namespace that it runs in."""

MODELS: Final = f"/apis/{labels.API_VERSION}"
LEASES: Final = "/apis/coordination.k8s.io/v1"


class Missing(ClusterError):
    """The API server answers, and has no such object."""


class Cluster:
    """One API server. Requests block. Raises ConfigError where there is no way to one."""

    def __init__(
        self,
        clock: Clock,
        *,
        context: str | None = None,
        namespace: str | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        import kubernetes

        # The package has no types.
        self._client: Any = kubernetes.client
        configuration: Any = self._client.Configuration()
        configuration.retries = False
        found = _log_in(kubernetes.config, configuration, context)
        self.namespace = namespace or found
        """The one that is meant."""
        self._api: Any = self._client.ApiClient(configuration)
        self._clock = clock
        self._request_seconds = request_seconds
        self._now: float | None = None

    @property
    def now(self) -> float:
        """Seconds since the epoch by the server's clock, as of its last answer: ages are right whatever our clock."""
        return self._clock.wall() if self._now is None else self._now

    def connection(self) -> kopf.ConnectionInfo:
        """The same address and credentials for the operator's own client, with a token that is fresh now."""
        import kopf

        found = self._api.configuration
        scheme, _, token = str(found.auth_settings().get("BearerToken", {}).get("value") or "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            scheme=scheme or None,
            token=token or None,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
            proxy_url=found.proxy,
        )

    def deployment(self, name: str) -> Json:
        """A ModelDeployment. Raises Missing with the names of those that there are."""
        path = f"{MODELS}/namespaces/{self.namespace}/{labels.PLURAL}/{name}"
        try:
            return self._get(path, what=f"ModelDeployment {name}")
        except Missing as error:
            if not error.args[0].startswith("There is no ModelDeployment"):
                raise
            raise Missing(f"{error} {self._others(name)}") from None

    def deployments(self, *, everywhere: bool = False) -> list[Json]:
        """All ModelDeployments of the namespace, or of all namespaces."""
        where = "" if everywhere else f"/namespaces/{self.namespace}"
        return self._list(f"{MODELS}{where}/{labels.PLURAL}", what=labels.PLURAL)

    def pods(self, selector: str) -> list[Json]:
        """Pods of the namespace."""
        return self._list(f"/api/v1/namespaces/{self.namespace}/pods", what="pods", labelSelector=selector)

    def pod(self, name: str) -> Json:
        """One pod. Raises Missing."""
        return self._get(f"/api/v1/namespaces/{self.namespace}/pods/{name}", what=f"pod {name}")

    def events(self, kind: str, *, warnings: bool = False, name: str = "") -> list[Json]:
        """Events of the namespace about objects of a kind, or about the one of that name; oldest first."""
        fields = [f"involvedObject.kind={kind}"]
        fields += [f"involvedObject.name={name}"] if name else []
        fields += ["type=Warning"] if warnings else []
        path = f"/api/v1/namespaces/{self.namespace}/events"
        found = self._list(path, what="events", fieldSelector=",".join(fields))
        return sorted(found, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def lease(self, namespace: str, name: str) -> Json:
        """A Lease. Raises Missing."""
        return self._get(f"{LEASES}/namespaces/{namespace}/leases/{name}", what=f"Lease {name}", namespace=namespace)

    def annotate(self, pod: Json, notes: Mapping[str, str]) -> Json:
        """Write annotations on this very pod, not on another one that has got its name meanwhile."""
        metadata = pod["metadata"]
        body = {"metadata": {"uid": metadata["uid"], "annotations": dict(notes)}}
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        what = f"pod {metadata['name']}"
        return self._request("PATCH", path, what=what, query={"fieldManager": FIELD_MANAGER}, body=body)

    def _others(self, name: str) -> str:
        """Where else to look for a deployment."""
        import difflib

        try:
            found = self._list(f"{MODELS}/{labels.PLURAL}", what=labels.PLURAL)
        except ClusterError:
            return "See `paceline status`."
        same = sorted(one["metadata"]["namespace"] for one in found if one["metadata"]["name"] == name)
        if same:
            return f"There is one in {', '.join(same[:NAMED])}: use -n {same[0]}."
        here = sorted(one["metadata"]["name"] for one in found if one["metadata"]["namespace"] == self.namespace)
        if not here:
            return f"This namespace has none, the cluster has {len(found)}: `paceline status -A` lists them."
        alike = difflib.get_close_matches(name, here, n=NAMED) or here[:NAMED]
        return f"Did you mean {' or '.join(alike)}?"

    def _list(self, path: str, *, what: str, **query: str) -> list[Json]:
        items: list[Json] = []
        query["limit"] = str(PAGE)
        for _ in range(MOST_PAGES):
            page = self._request("GET", path, what=what, query=query)
            items += page.get("items") or []
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                break
            query["continue"] = following
        return items

    def _get(self, path: str, *, what: str, namespace: str | None = None) -> Json:
        return self._request("GET", path, what=what, namespace=namespace)

    def _request(
        self,
        verb: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        namespace: str | None = None,
    ) -> Json:
        from urllib3.exceptions import HTTPError

        api = self._api
        headers = {"Accept": "application/json"} | ({} if body is None else {"Content-Type": MERGE})
        request = api.param_serialize(
            method=verb,
            resource_path=path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = api.call_api(*request, _request_timeout=self._request_seconds)
            content = answer.read()
        except (HTTPError, OSError) as error:
            server = api.configuration.host
            raise ClusterError(f"The API server at {server} can't be reached: {_words(error)}.") from None
        except self._client.ApiException as error:
            raise ClusterError(f"The API server can't be asked: {error.reason}.") from None
        self._now = _date(answer.headers.get("Date")) or self._now
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            server = api.configuration.host
            raise ClusterError(f"{server} answers {answer.status}, and not as an API server does.")
        if answer.status >= 300:
            raise _refusal(answer.status, document, what, namespace or self.namespace)
        return document


def _log_in(config: Any, configuration: Any, context: str | None) -> str:
    """Fill in address and credentials; the namespace that the context names."""
    file = os.environ.get("KUBECONFIG") or "~/.kube/config"
    try:
        config.load_kube_config(config_file=file, context=context, client_configuration=configuration)
        contexts, active = config.list_kube_config_contexts(config_file=file)
    except config.ConfigException as error:
        if context is None and _in_pod(config, configuration):
            return _account_namespace()
        raise ConfigError(
            f"no cluster to ask: {str(error).rstrip('.')}. Set KUBECONFIG to a kubeconfig that kubectl works with."
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"KUBECONFIG: {file} can't be used: {_words(error)}.") from None
    chosen = active if context is None else next(one for one in contexts if one["name"] == context)
    return str(((chosen or {}).get("context") or {}).get("namespace") or "default")


def _in_pod(config: Any, configuration: Any) -> bool:
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        return False
    return True


def _account_namespace() -> str:
    try:
        return ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip() or "default"
    except (OSError, UnicodeDecodeError):
        return "default"


def _refusal(code: int, status: Json, what: str, namespace: str) -> ClusterError:
    message = str(status.get("message") or status.get("reason") or "no message").rstrip(".")
    if code == 404:
        if (status.get("details") or {}).get("name"):
            return Missing(f"There is no {what} in namespace {namespace}.")
        return ClusterError(
            f"The cluster does not know {what}: Paceline is not installed there, or KUBECONFIG leads to another "
            "cluster. `paceline check` looks."
        )
    if code == 401:
        return ClusterError("The API server does not know who you are: log in again, then try `kubectl get pods`.")
    if code == 403:
        return ClusterError(f"You may not do that: {message}.")
    return ClusterError(f"The API server answers {code}: {message}.")


def _date(text: str | None) -> float | None:
    if not text:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


def _words(error: BaseException) -> str:
    """The last sentence of nested errors: the others repeat the address."""
    inner: object = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _words(inner)
    if isinstance(error.__cause__, OSError) and error.__cause__.strerror:
        return error.__cause__.strerror
    return (str(error).rpartition(": ")[2] or type(error).__name__).rstrip(".")
