"""The kopf side of the operator: its handlers, thin, and how it logs in. Called by ``paceline operator``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import kopf

from paceline.api import labels
from paceline.clock import WallClock
from paceline.controller.login import log_in
from paceline.controller.loops import Operator
from paceline.controller.settings import OperatorSettings


async def run_operator(settings: OperatorSettings) -> None:
    """Run one replica until a signal. Raises PacelineError where it can't even start."""
    kopf_settings = kopf.OperatorSettings()
    # Events, finalizers and progress are our own matter: kopf writes nothing.
    kopf_settings.posting.enabled = False
    kopf_settings.peering.standalone = True

    def connect() -> kopf.ConnectionInfo:
        return log_in(kopf_settings)

    operator = Operator(connect, settings, WallClock())
    stop = asyncio.Event()
    try:
        await operator.start()
        kopf_task = asyncio.create_task(
            kopf.operator(
                registry=_registry(operator, connect),
                settings=kopf_settings,
                standalone=True,
                clusterwide=settings.namespace is None,
                namespaces=[] if settings.namespace is None else [settings.namespace],
                stop_flag=stop,
            )
        )
        await asyncio.wait({kopf_task, operator.failed}, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await kopf_task
        if operator.failed.done():
            operator.failed.result()
    finally:
        await operator.stop()


def _registry(operator: Operator, connect: Callable[[], kopf.ConnectionInfo]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return connect()

    # An event handler and nothing else: kopf then keeps no progress on the object and needs no finalizer.
    @kopf.on.event(labels.GROUP, labels.VERSION, labels.PLURAL, registry=registry)
    async def seen(event: Any, **_: Any) -> None:
        resource = dict(event["object"])
        if event["type"] == "DELETED":
            operator.gone(resource)
        else:
            operator.seen(resource)

    return registry


def configure_logging(*, debug: bool) -> None:
    """Log lines to standard error; kopf's own only where they are warnings."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in ("kopf", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.INFO if debug else logging.WARNING)
