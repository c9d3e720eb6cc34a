"""``paceline operator``: run the operator against a Kubernetes API server. Checks flags and environment; the controller
does the rest.
"""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import click

from paceline.cli.options import lease_namespace
from paceline.errors import ConfigError


@click.command(
    short_help="Keep a cluster true to its ModelDeployments.",
    epilog="""\b
Examples:
  paceline operator --namespace prod
  paceline operator --prometheus-url http://prometheus.monitoring:9090 --gpu-quota 64
""",
)
@click.option(
    "--namespace", metavar="NAME", envvar="PACELINE_NAMESPACE", help="Look after this one only. Default: all."
)
@lease_namespace
@click.option(
    "--lease-seconds",
    type=click.IntRange(3, 300),
    default=15,
    show_default=True,
    help="How long a replica that went silent keeps others from acting.",
)
@click.option("--identity", metavar="NAME", envvar="POD_NAME", help="Of this replica. [env: POD_NAME]")
@click.option(
    "--metrics-host",
    default="0.0.0.0",  # noqa: S104 - probes and Prometheus come from outside the pod
    show_default=True,
    help="Address of /metrics and probes.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port of /metrics, /healthz and /readyz; 0 takes any free one.",
)
@click.option(
    "--engine-image",
    envvar="PACELINE_ENGINE_IMAGE",
    metavar="IMAGE",
    help="Engine image where the resource names none. [env: PACELINE_ENGINE_IMAGE]",
)
@click.option(
    "--router-image",
    envvar="PACELINE_ROUTER_IMAGE",
    metavar="IMAGE",
    help="Router image where the resource names none. [env: PACELINE_ROUTER_IMAGE]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=32,
    show_default=True,
    help="ModelDeployments that are worked on at the same time.",
)
@click.option(
    "--resync-seconds",
    type=click.IntRange(5, 86_400),
    default=300,
    show_default=True,
    help="Time after which each ModelDeployment is looked at again, whatever happened.",
)
@click.option(
    "--prometheus-url",
    metavar="URL",
    envvar="PACELINE_PROMETHEUS_URL",
    help="Where the planner sees traffic. Default: it reads the routers' own pages. [env: PACELINE_PROMETHEUS_URL]",
)
@click.option(
    "--prometheus-token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Bearer token for that Prometheus.",
)
@click.option(
    "--gpu-quota",
    type=click.IntRange(1, 1_000_000),
    envvar="PACELINE_GPU_QUOTA",
    help="GPUs that all ModelDeployments share, by priority. [env: PACELINE_GPU_QUOTA]",
)
@click.option(
    "--taint-after-gpu-errors",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    envvar="PACELINE_TAINT_AFTER_GPU_ERRORS",
    help="Taint a node on which GPUs failed so many engines within a day; 0: never. "
    "[env: PACELINE_TAINT_AFTER_GPU_ERRORS]",
)
@click.option(
    "--record",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep what the planner sees and decides there, to replay it.",
)
@click.option("--debug", is_flag=True, help="Log more.")
def operator(
    namespace: str | None,
    lease_namespace: str,
    lease_seconds: int,
    identity: str | None,
    metrics_host: str,
    metrics_port: int,
    engine_image: str | None,
    router_image: str | None,
    workers: int,
    resync_seconds: int,
    prometheus_url: str | None,
    prometheus_token_file: Path | None,
    gpu_quota: int | None,
    taint_after_gpu_errors: int,
    record: Path | None,
    debug: bool,
) -> int:
    """Keep a cluster true to its ModelDeployments. Finds the API server by KUBECONFIG or its own ServiceAccount."""
    import asyncio

    from paceline.controller.operator import configure_logging, run_operator
    from paceline.controller.settings import CRASH_ENV, OperatorSettings
    from paceline.planner.make import make_targets
    from paceline.policy.resources import Images

    defaults = Images()
    settings = OperatorSettings(
        # Unique even where two containers of one name run: an identity that is taken over would be two leaders.
        identity=f"{identity or socket.gethostname()}_{uuid.uuid4().hex[:8]}",
        namespace=namespace,
        lease_namespace=lease_namespace,
        lease_seconds=lease_seconds,
        images=Images(engine=engine_image or defaults.engine, router=router_image or defaults.router),
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        workers=workers,
        resync_seconds=resync_seconds,
        taint_after_gpu_errors=taint_after_gpu_errors,
        crash_after_writes=_positive(CRASH_ENV),
    )
    configure_logging(debug=debug)
    token = None if prometheus_token_file is None else _token(prometheus_token_file)

    async def run() -> None:
        targets = make_targets(url=prometheus_url, token=token, gpu_quota=gpu_quota, record=record)
        try:
            await run_operator(settings, targets=targets, metrics=targets.metrics.registry)
        finally:
            await targets.close()

    asyncio.run(run())
    return 0


def _token(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"--prometheus-token-file: can't read {file}: {reason}.") from None


def _positive(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name} is {text!r}; it must be a whole number from 1.")
    return int(text)
