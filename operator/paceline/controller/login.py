"""How to reach the API server: by KUBECONFIG, else as the pod's ServiceAccount. Used by kopf and by our own client.

kopf's functions read the files; what is wrong with them becomes a sentence here.
"""

from __future__ import annotations

import os

import kopf
import yaml

from paceline.errors import ConfigError


def log_in(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    """Address and credentials, as they are in the files now: tokens of ServiceAccounts change. Raises ConfigError."""
    try:
        info = kopf.login_with_kubeconfig(settings=settings) or kopf.login_with_service_account(settings=settings)
    except OSError as error:
        raise ConfigError(f"KUBECONFIG: can't read {error.filename}: {error.strerror}.") from None
    except yaml.YAMLError:
        raise ConfigError(f"KUBECONFIG: {_path()} is not valid YAML.") from None
    except kopf.LoginError as error:
        raise ConfigError(f"KUBECONFIG: {_path()}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"KUBECONFIG: {_path()} is not a kubeconfig, or names a context, cluster or user that it does not "
            f"hold ({error})."
        ) from None
    if info is None:
        raise ConfigError(
            "There is no way to a Kubernetes API server: set KUBECONFIG to a kubeconfig, or run in a pod with a "
            "ServiceAccount."
        )
    if not info.server:
        raise ConfigError(f"KUBECONFIG: {_path()} names no server in its current cluster.")
    return info


def _path() -> str:
    return os.environ.get("KUBECONFIG") or "~/.kube/config"
