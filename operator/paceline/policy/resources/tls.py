"""TLS in the pods: which Secrets are mounted where, and what processes are told of them. Other builders call this.

Secrets pass through the kubelet alone, which renews the files when they change. Of the engines' Secret the routers get
the authority, never the key.
"""

from __future__ import annotations

from typing import Final

from paceline.api import wire
from paceline.api.v1alpha1 import ModelDeployment
from paceline.policy.resources.common import Manifest, child_name

FOLDER: Final = "/var/run/paceline/tls"
CERTIFICATE: Final = ("tls.crt", "tls.key")
AUTHORITY: Final = ("ca.crt",)
MODE: Final = 0o444
"""Of the files: they are in memory, in a pod of one user."""


def engine_server_name(md: ModelDeployment) -> str:
    """The name in the engines' certificate: that of their Service."""
    return f"{child_name(md, 'engines')}.{md.metadata.namespace}.svc"


def engine_tls(md: ModelDeployment) -> wire.EngineTls | None:
    """What an engine is told; None where it serves plain HTTP."""
    tls = md.spec.engine.tls
    if tls is None:
        return None
    return wire.EngineTls(
        folder=f"{FOLDER}/own",
        server_name=engine_server_name(md),
        client_certificates=tls.client_certificate_secret is not None,
    )


def router_tls(md: ModelDeployment) -> wire.RouterTls | None:
    """What a router is told of its own API."""
    tls = md.spec.routing.tls
    if tls is None:
        return None
    return wire.RouterTls(
        folder=f"{FOLDER}/own", client_ca_folder=None if tls.client_ca_secret is None else f"{FOLDER}/clients"
    )


def router_to_engine_tls(md: ModelDeployment) -> wire.RouterToEngineTls | None:
    """What a router is told of the engines' API."""
    tls = md.spec.engine.tls
    if tls is None:
        return None
    return wire.RouterToEngineTls(
        ca_folder=f"{FOLDER}/engines",
        server_name=engine_server_name(md),
        client_folder=None if tls.client_certificate_secret is None else f"{FOLDER}/to-engines",
    )


def engine_volumes(md: ModelDeployment) -> list[Manifest]:
    """Volumes of an engine's pod."""
    tls = md.spec.engine.tls
    return [] if tls is None else [_volume("own", tls.certificate_secret, (*CERTIFICATE, *AUTHORITY))]


def router_volumes(md: ModelDeployment) -> list[Manifest]:
    """Volumes of a router's pod."""
    own, engines = md.spec.routing.tls, md.spec.engine.tls
    volumes = []
    if own is not None:
        volumes.append(_volume("own", own.certificate_secret, CERTIFICATE))
        if own.client_ca_secret is not None:
            volumes.append(_volume("clients", own.client_ca_secret, AUTHORITY))
    if engines is not None:
        volumes.append(_volume("engines", engines.certificate_secret, AUTHORITY))
        if engines.client_certificate_secret is not None:
            volumes.append(_volume("to-engines", engines.client_certificate_secret, CERTIFICATE))
    return volumes


def mounts(volumes: list[Manifest]) -> list[Manifest]:
    """Where a container has these volumes."""
    return [
        {"name": volume["name"], "mountPath": f"{FOLDER}/{volume['name'].removeprefix('tls-')}", "readOnly": True}
        for volume in volumes
    ]


def scrape_settings(md: ModelDeployment) -> Manifest:
    """How Prometheus asks the engines' own page, beside its port."""
    tls = md.spec.engine.tls
    if tls is None:
        return {}
    config: Manifest = {
        "serverName": engine_server_name(md),
        "ca": {"secret": {"name": tls.certificate_secret, "key": AUTHORITY[0]}},
    }
    if tls.client_certificate_secret is not None:
        certificate, key = CERTIFICATE
        config["cert"] = {"secret": {"name": tls.client_certificate_secret, "key": certificate}}
        config["keySecret"] = {"name": tls.client_certificate_secret, "key": key}
    return {"scheme": "https", "tlsConfig": config}


def _volume(name: str, secret: str, keys: tuple[str, ...]) -> Manifest:
    items = [{"key": key, "path": key} for key in keys]
    return {"name": f"tls-{name}", "secret": {"secretName": secret, "items": items, "defaultMode": MODE}}
