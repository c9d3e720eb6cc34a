"""The kopf side of the operator: its handlers, thin, and how it logs in. Called by ``paceline operator``."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import kopf

# The one way to learn what kopf watches: it takes such an object as an argument and does not name its class anew.
from kopf._cogs.structs.references import Insights
from prometheus_client import CollectorRegistry

from paceline.api import labels
from paceline.clock import WallClock
from paceline.controller.kopf_tasks import run_kopf
from paceline.controller.login import log_in
from paceline.controller.loops import Operator
from paceline.controller.reconcile import Targets
from paceline.controller.settings import OperatorSettings

RESTART_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 5.0
"""Between two looks at what kopf watches."""
BLIND_LOOKS: Final = 2
"""After so many in a row at which it watches nothing, it is started anew."""
KOPF_REQUEST_SECONDS: Final = 30.0

log = logging.getLogger(__name__)


async def run_operator(
    settings: OperatorSettings, *, targets: Targets | None = None, metrics: CollectorRegistry | None = None
) -> None:
    """Run one replica until a signal. Raises PacelineError where it can't even start.

    ``targets`` says how many engines there should be, else the specs' minima do; ``metrics`` are shown with its own.
    """
    kopf_settings = kopf.OperatorSettings()
    # Events, finalizers and progress are our own matter: kopf writes nothing.
    kopf_settings.posting.enabled = False
    kopf_settings.peering.standalone = True
    # Its own is five minutes, in which a list that hangs would hide every change.
    kopf_settings.networking.request_timeout = KOPF_REQUEST_SECONDS

    def connect() -> kopf.ConnectionInfo:
        return log_in(kopf_settings)

    operator = Operator(connect, settings, WallClock(), targets=targets)
    if metrics is not None:
        operator.show(metrics)
    stop = asyncio.Event()
    try:
        await operator.start()
        edges = asyncio.create_task(_follow_edges(operator, connect, settings, kopf_settings, stop))
        await asyncio.wait({edges, operator.failed}, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await edges
        if operator.failed.done():
            operator.failed.result()
    finally:
        await operator.stop()


async def _follow_edges(
    operator: Operator,
    connect: Callable[[], kopf.ConnectionInfo],
    settings: OperatorSettings,
    kopf_settings: kopf.OperatorSettings,
    stop: asyncio.Event,
) -> None:
    """Run kopf until a signal or ``stop``. It gives up on some answers of an API server that has just been restarted,
    such as 404 for a custom resource; the rest of the operator goes on, and so must this.

    Worse, it asks once which kinds there are: where the server does not name ours just then, kopf runs and is blind.
    """
    while not stop.is_set():
        insights = Insights()
        stop_kopf = asyncio.Event()
        guard = asyncio.create_task(_stop_when_blind(insights, stop, stop_kopf), name="look at what kopf watches")
        try:
            await run_kopf(
                registry=_registry(operator, connect),
                settings=kopf_settings,
                standalone=True,
                clusterwide=settings.namespace is None,
                namespaces=[] if settings.namespace is None else [settings.namespace],
                insights=insights,
                stop_flag=stop_kopf,
            )
        except Exception as error:  # noqa: BLE001 - the root of kopf's tasks: what they fail on is not ours to name
            log.warning("kopf gave up and starts again in %.0f s: %s", RESTART_SECONDS, error)
            _end_on_signals(stop)  # kopf's own handlers tell a kopf that is gone
            with suppress(TimeoutError):
                async with asyncio.timeout(RESTART_SECONDS):
                    await stop.wait()
            operator.events_missed()
        else:
            if stop.is_set() or not stop_kopf.is_set():
                return
            log.warning("kopf did not watch ModelDeployments, which the server did not name to it; it starts again")
            operator.events_missed()
        finally:
            guard.cancel()
            await asyncio.wait({guard})


def _end_on_signals(stop: asyncio.Event) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _stop_when_blind(insights: Insights, stop: asyncio.Event, stop_kopf: asyncio.Event) -> None:
    """Set ``stop_kopf`` on ``stop``, or when kopf has asked what there is to watch and watches nothing."""
    blind = 0
    while blind < BLIND_LOOKS and not stop.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await stop.wait()
        blind = blind + 1 if insights.ready_resources.is_set() and not insights.watched_resources else 0
    stop_kopf.set()


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
    for name in ("kopf", "aiohttp", "asyncio", "httpx"):
        logging.getLogger(name).setLevel(logging.INFO if debug else logging.WARNING)
