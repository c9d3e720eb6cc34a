"""Tenants on this machine: their keys are files in a folder that the user names, as they are in a router's pod.

``plan`` checks the folder, and the load client sends with a key of each tenant in turn.
"""

from __future__ import annotations

from pathlib import Path

from paceline.api.v1alpha1 import ModelDeployment, TenancyMode
from paceline.errors import ConfigError

FLAG = "--tenant-keys"


def check_keys(md: ModelDeployment, folder: Path | None) -> None:
    """Raises ConfigError where the resource has tenants and there is no folder with their keys, or the reverse."""
    closed = md.spec.tenancy.mode is TenancyMode.API_KEYS
    if closed and folder is None:
        names = ", ".join(tenant.name for tenant in md.spec.tenancy.tenants)
        raise ConfigError(
            f"{FLAG}: missing; only tenants are served here. Name a folder with a file of keys, one a line, for each "
            f"of: {names}."
        )
    if folder is not None and not closed:
        raise ConfigError(f"{FLAG}: spec.tenancy.mode is Open, so nobody asks for keys; leave it out.")
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{FLAG}: {folder} is not a folder.")


def one_router(md: ModelDeployment) -> ModelDeployment:
    """The same resource with the one router that there is here: it gives whole limits, not its part of them. And
    without TLS: its Secrets are the cluster's, and nothing leaves the machine.
    """
    routing = md.spec.routing.model_copy(update={"replicas": 1, "tls": None})
    engine = md.spec.engine.model_copy(update={"tls": None})
    return md.model_copy(update={"spec": md.spec.model_copy(update={"routing": routing, "engine": engine})})


def a_key_of_each(md: ModelDeployment, folder: Path | None) -> tuple[str, ...]:
    """The first key of every tenant that has one. Raises ConfigError when a file can't be read."""
    keys = []
    for tenant in () if folder is None else md.spec.tenancy.tenants:
        path = (folder or Path()) / tenant.name
        try:
            lines = path.read_text("ascii").splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{FLAG}: {path} can't be read; it must hold keys, one a line.") from None
        keys += [line.strip() for line in lines if line.strip() and not line.startswith("#")][:1]
    return tuple(keys)
