"""Which Secrets reach which pods, and what Prometheus and clients are told."""

from __future__ import annotations

from typing import Any

import msgspec

from paceline.api import labels, wire
from paceline.policy.resources import Images, children
from paceline.policy.resources.pod_monitor import pod_monitors
from paceline.policy.resources.router import address
from tests.api.documents import deployment

ENGINES = {"certificateSecret": "engines-tls"}
ENGINES_MUTUAL = {**ENGINES, "clientCertificateSecret": "router-client"}
ROUTERS = {"certificateSecret": "router-tls"}
ROUTERS_MUTUAL = {**ROUTERS, "clientCaSecret": "clients"}


def secrets(template: dict[str, Any]) -> dict[str, list[str]]:
    """Keys of Secrets by the place where a container has them."""
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    found = {}
    for mount in template["spec"]["containers"][0]["volumeMounts"]:
        secret = volumes[mount["name"]].get("secret")
        if secret is not None:
            assert mount["readOnly"]
            found[mount["mountPath"]] = [secret["secretName"], *(item["path"] for item in secret["items"])]
    return found


def built(engine: Any = None, routing: Any = None) -> Any:
    return children(deployment(engine={"tls": engine}, routing={"tls": routing}), images=Images())


def router_document(made: Any) -> wire.RouterConfig:
    (text,) = made.router.config_map["data"].values()
    return msgspec.json.decode(text, type=wire.RouterConfig)


def test_without_tls_nothing_is_mounted_and_everything_is_plain() -> None:
    made = built()
    assert secrets(made.router.pod_template) == secrets(made.engines[0].pod_template) == {}
    assert (router_document(made).tls, router_document(made).engine_tls) == (None, None)
    assert labels.TLS not in made.engines[0].pod_template["metadata"].get("annotations", {})
    assert made.router.service["spec"]["ports"][0]["port"] == 80


def test_engines_have_their_key_and_routers_only_the_authority() -> None:
    made = built(engine=ENGINES)
    (own,) = secrets(made.engines[0].pod_template).values()
    assert own == ["engines-tls", "tls.crt", "tls.key", "ca.crt"]
    assert secrets(made.router.pod_template) == {"/var/run/paceline/tls/engines": ["engines-tls", "ca.crt"]}
    assert made.engines[0].pod_template["metadata"]["annotations"] == {labels.TLS: "true"}


def test_what_processes_are_told_is_where_the_files_are() -> None:
    made = built(engine=ENGINES_MUTUAL, routing=ROUTERS_MUTUAL)
    (text,) = made.engines[0].config_map["data"].values()
    engine = msgspec.json.decode(text, type=wire.EngineConfig).tls
    router = router_document(made)
    assert engine is not None
    assert engine.client_certificates
    assert list(secrets(made.engines[0].pod_template)) == [engine.folder]
    assert router.tls is not None
    assert router.engine_tls is not None
    assert router.engine_tls.server_name == engine.server_name == "small-engines.default.svc"
    assert secrets(made.router.pod_template) == {
        router.tls.folder: ["router-tls", "tls.crt", "tls.key"],
        router.tls.client_ca_folder: ["clients", "ca.crt"],
        router.engine_tls.ca_folder: ["engines-tls", "ca.crt"],
        router.engine_tls.client_folder: ["router-client", "tls.crt", "tls.key"],
    }


def test_the_service_says_https_and_probes_stay_on_the_admin_port() -> None:
    made = built(routing=ROUTERS)
    (port,) = made.router.service["spec"]["ports"]
    assert (port["name"], port["port"], port["targetPort"]) == ("https", 443, "api")
    assert address(deployment(routing={"tls": ROUTERS})) == ("https", 443)
    container = made.router.pod_template["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "admin"


def test_prometheus_asks_engines_with_what_they_want_to_see() -> None:
    of_engines, of_routers = pod_monitors(deployment(engine={"tls": ENGINES_MUTUAL}))
    api, admin = of_engines["spec"]["podMetricsEndpoints"]
    assert api["scheme"] == "https"
    assert api["tlsConfig"] == {
        "serverName": "small-engines.default.svc",
        "ca": {"secret": {"name": "engines-tls", "key": "ca.crt"}},
        "cert": {"secret": {"name": "router-client", "key": "tls.crt"}},
        "keySecret": {"name": "router-client", "key": "tls.key"},
    }
    assert "scheme" not in admin
    assert "scheme" not in of_routers["spec"]["podMetricsEndpoints"][0]
    plain, _ = pod_monitors(deployment())
    assert "scheme" not in plain["spec"]["podMetricsEndpoints"][0]


def test_tls_of_the_api_does_not_part_engines_that_exchange_blocks() -> None:
    revisions = {
        made.engines[0].pod_template["metadata"]["labels"][labels.REVISION] for made in (built(), built(engine=ENGINES))
    }
    assert len(revisions) == 1
