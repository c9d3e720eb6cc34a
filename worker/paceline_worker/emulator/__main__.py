"""``python -m paceline_worker.emulator``: one emulated engine until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import uuid
from typing import Final

import uvloop

from paceline.errors import EngineError, PacelineError
from paceline_worker.emulator.api import Api
from paceline_worker.emulator.engine import EmulatedEngine
from paceline_worker.emulator.events import Publisher
from paceline_worker.emulator.faults import Faults
from paceline_worker.emulator.metrics import Metrics
from paceline_worker.emulator.options import Options, parse
from paceline_worker.emulator.transfer import BlockSource
from paceline_worker.http.server import Limits, serve
from paceline_worker.http.tls import follow, server_files

log = logging.getLogger("paceline_worker.emulator")

LIMITS: Final = Limits(max_body_bytes=64 * 1024 * 1024, idle_timeout_seconds=300.0)
SHUTDOWN_SECONDS: Final = 1.0
"""What is in flight at the end is dropped, as by vLLM; whoever wants it drained waits before the signal."""


async def run(options: Options) -> None:
    """Serve until a signal. Raises EngineError when an address can't be bound."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics(options.served_names[0], options.max_model_len)
    publisher = Publisher(options.kv_events, options.block_size) if options.kv_events else None
    source = BlockSource(options.kv_lease_seconds, metrics.count_expired) if options.side_channel else None
    engine = EmulatedEngine(
        options,
        engine_id=uuid.uuid4().hex,
        metrics=metrics,
        faults=Faults(),
        publisher=publisher,
        source=source,
    )
    try:
        if publisher is not None:
            await publisher.start()
        if source is not None and options.side_channel is not None:
            await source.start(*options.side_channel)
        tls = None if options.tls is None else server_files(*options.tls)
        context = None if tls is None else tls.get()
        try:
            server = await serve(Api(options, engine).handle, options.host, options.port, limits=LIMITS, tls=context)
        except OSError as error:
            raise EngineError(
                f"The emulator can't listen on {options.host}:{options.port}: {error.strerror}. Choose a free --port."
            ) from None
        _log_start(options, server.port, source)
        steps = asyncio.create_task(engine.run(), name="engine loop")
        renewing = asyncio.create_task(follow(tls, server), name="certificates") if tls is not None else None
        stopped = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait((steps, stopped), return_when=asyncio.FIRST_COMPLETED)
        failed = steps.done()
        await server.close(0.0 if failed else SHUTDOWN_SECONDS)
        stopped.cancel()
        steps.cancel()
        if renewing is not None:
            renewing.cancel()
        results = await asyncio.gather(steps, stopped, return_exceptions=True)
        if failed and isinstance(results[0], BaseException):
            raise results[0]
    finally:
        if source is not None:
            await source.close()
        if publisher is not None:
            await publisher.close()


def _log_start(options: Options, port: int, source: BlockSource | None) -> None:
    profile = options.profile
    log.info(
        "This is an EMULATOR, not vLLM: text is made up and time is modelled (profile %s, %s). "
        "%s at http://%s:%d, speed %g, %d KV blocks of %d tokens, side channel %s",
        profile.name,
        "an estimate" if profile.estimate else "measured",
        options.served_names[0],
        options.host,
        port,
        options.speed,
        options.kv_blocks,
        options.block_size,
        source.port if source is not None else "off",
    )


def main() -> int:
    """Entry point. Returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        uvloop.run(run(parse(sys.argv[1:], os.environ)))
    except PacelineError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
