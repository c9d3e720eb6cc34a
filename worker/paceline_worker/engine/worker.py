"""The life of one engine: check, start, warm up, serve, drain, stop. Called by ``__main__``.

The worker waits for the first of several things at every stage (the child ends, a signal comes, the stage is done), so
nothing that happens to an engine waits for a poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TextIO

from paceline.clock import Clock
from paceline.errors import EngineError, HardwareError, PacelineError
from paceline_worker.engine import accelerators
from paceline_worker.engine.admin import AdminServer
from paceline_worker.engine.client import EngineClient
from paceline_worker.engine.cores import share_cores
from paceline_worker.engine.diagnosis import accelerator_fault, explain_exit, hardware_fault
from paceline_worker.engine.drain import wait_idle
from paceline_worker.engine.health import watch_health
from paceline_worker.engine.launch import LaunchPlan
from paceline_worker.engine.metrics import EngineMetrics
from paceline_worker.engine.ports import check_ports
from paceline_worker.engine.process import ChildProcess, describe_exit, named_descendants, wait_for_any
from paceline_worker.engine.progress import PERIOD_SECONDS, watch_progress
from paceline_worker.engine.settings import Backend, Settings
from paceline_worker.engine.status import EngineStatus, State
from paceline_worker.engine.warmup import become_ready

STOP_SECONDS: Final = 20.0
"""How long an idle child may take to end; the pod's grace period leaves 30 s beyond the drain."""
VLLM_PROCESSES: Final = "VLLM::"
"""Title of the processes that vLLM itself starts: engine cores, and a worker an accelerator."""
VLLM_WORKERS: Final = "VLLM::Worker"
"""Title of those of them that compute."""
CRASH_SECONDS: Final = 15.0
"""How long a child that lost one of its processes may take to say why and end."""
FAULT_SECONDS: Final = 2.0
"""The same for one that reported a fault of its accelerator: nothing comes of it any more."""
LAST_WORDS_SECONDS: Final = 2.0
"""How long to read the output of a child that ended."""

log = logging.getLogger(__name__)


class StopRequest:
    """What the signals ask for: the first one to drain, the second one to stop at once."""

    __slots__ = ("drain", "now")

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        self.now = asyncio.Event()

    def signal(self) -> None:
        """One more SIGTERM or SIGINT."""
        (self.now if self.drain.is_set() else self.drain).set()


class EngineWorker:
    """Runs one child process to its end."""

    def __init__(
        self, settings: Settings, plan: LaunchPlan, clock: Clock, *, environment: Mapping[str, str], output: TextIO
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._clock = clock
        self._environment = environment
        self._output = output
        self.stop = StopRequest()
        self.status = EngineStatus()
        self._metrics = EngineMetrics(self.status, settings)
        self._loss = ""
        """Title of the process whose end took the engine with it."""

    async def run(self) -> None:
        """Returns after a stop that was asked for. Raises PacelineError when the engine can't start or ends alone."""
        config = self._settings.config
        client = EngineClient(f"{self._own_host()}:{config.ports.api}", config.served_names[0], config.tls)
        admin = AdminServer(self.status, self._metrics, client)
        try:
            await admin.start(self._settings.bind_host, config.ports.admin)
            try:
                await self._run(client)
            except PacelineError as error:
                self.status.move(State.FAILED, str(error))
                raise
            finally:
                await admin.stop()
        finally:
            await client.close()

    async def _run(self, client: EngineClient) -> None:
        started = self._clock.monotonic()
        if await self._first(check=self._check_machine(), stop=self.stop.drain.wait()) == "stop":
            return
        child = await self._start()
        try:
            await self._serve(child, client, started)
        finally:
            self.status.move(State.STOPPED, "the engine is stopped")
            await self._first(stopped=child.stop(STOP_SECONDS), now=self.stop.now.wait())
            ending = await child.stop(0)
            log.info("%s is stopped (%s).", self._plan.program, describe_exit(ending))

    async def _serve(self, child: ChildProcess, client: EngineClient, started: float) -> None:
        config = self._settings.config
        self.status.pid = child.pid
        if self._plan.serves_api:
            warmed = become_ready(
                client, self.status, self._clock, deadline_seconds=config.start_deadline_seconds,
                warmed=self._metrics.warmup_seconds.set,
            )  # fmt: skip
            if await self._first(exited=child.wait(), ready=warmed, stop=self.stop.drain.wait()) != "ready":
                await self._explain(child, "before it was ready")
                return
        parts = named_descendants(VLLM_PROCESSES)
        if not config.accelerators.count:
            await share_cores(pid for pid, title in parts.items() if title.startswith(VLLM_WORKERS))
        elapsed = self._clock.monotonic() - started
        self._metrics.start_seconds.set(elapsed)
        self.status.move(State.READY, "serving")
        log.info("Ready after %.1f s: %s on port %d.", elapsed, config.served_names[0], config.ports.api)

        watching = self._watch(client) if self._plan.serves_api else asyncio.Event().wait()
        ended = self._ended(child, parts)
        await self._first(exited=ended, watching=watching, stop=self.stop.drain.wait())
        await self._explain(child, "while it was serving")
        if self._plan.serves_api:
            await self._drain(child, parts, client)

    async def _watch(self, client: EngineClient) -> None:
        """Raises EngineError for an engine that does not answer, or does nothing, for too long."""
        await self._first(
            health=watch_health(client, self.status),
            progress=watch_progress(
                client,
                self.status,
                self._clock,
                stall_seconds=self._settings.config.stall_seconds,
                period_seconds=self._period_seconds,
            ),
        )

    @property
    def _period_seconds(self) -> float:
        return min(PERIOD_SECONDS, self._settings.config.stall_seconds / 4)

    async def _drain(self, child: ChildProcess, parts: Mapping[int, str], client: EngineClient) -> None:
        limit = self._settings.config.drain_seconds
        self.status.move(State.DRAINING, f"draining, at most {limit} s")
        log.info("Draining, at most %d s.", limit)
        begun = self._clock.monotonic()
        idle = wait_idle(client, self.status, self._clock, limit_seconds=limit)
        ended, now, stuck = self._ended(child, parts), self.stop.now.wait(), self._stuck(client)
        await self._first(exited=ended, idle=idle, now=now, stuck=stuck)
        await self._explain(child, "while it was draining")
        elapsed = self._clock.monotonic() - begun
        self._metrics.drain_seconds.set(elapsed)
        log.info("Drained in %.1f s.", elapsed)

    async def _stuck(self, client: EngineClient) -> None:
        """Wait until an engine that drains stands still: what it has will never be done. One of a group that lost a
        member does.
        """
        stall_seconds = self._settings.config.stall_seconds
        await watch_progress(
            client, self.status, self._clock, stall_seconds=stall_seconds, period_seconds=self._period_seconds,
            once=True,
        )  # fmt: skip
        log.warning("It has done no step for %d s; what it has is cut off.", stall_seconds)

    async def _ended(self, child: ChildProcess, parts: Mapping[int, str]) -> None:
        """Wait until the child ends, one of ``parts`` does, or it reports a fault of the accelerator: no engine
        survives that, but its server may take a while.
        """
        parting = asyncio.create_task(wait_for_any(parts))
        try:
            first = await self._first(exited=child.wait(), parted=asyncio.wait([parting]), alarm=child.wait_for_alarm())
            if first == "exited":
                return
            patience = CRASH_SECONDS
            if first == "alarm":
                patience = FAULT_SECONDS
                what = f"{self._plan.program} reports a fault of the accelerator"
            else:
                self._loss = parts[parting.result()]
                what = f"{self._plan.program} lost its process {self._loss}"
            self.status.move(State.FAILED, what)
            log.error("%s.", what)
            await self._first(exited=child.wait(), late=asyncio.sleep(patience))
            await child.stop(0)
        finally:
            parting.cancel()
            await asyncio.gather(parting, return_exceptions=True)

    async def _check_machine(self) -> None:
        config, group = self._settings.config, self._settings.group
        if group.leads:
            check_ports(config, self._settings.bind_host)
        accelerators.check_parallelism(config)
        if self._settings.backend is Backend.EMULATOR:
            return
        accelerators.check_source(config.source)
        if config.accelerators.count:
            found = await accelerators.find_accelerators(self._plan.argv[0])
            accelerators.check_accelerators(config, found)
            log.info("Accelerators: %s.", ", ".join(accelerator.name for accelerator in found))

    async def _start(self) -> ChildProcess:
        log.info("Starting %s: %s", self._plan.program, " ".join(self._plan.argv))
        try:
            return await ChildProcess.start(
                self._plan.argv,
                self._plan.environment(self._environment),
                prefix="[engine] ",
                output=self._output,
                alarming=accelerator_fault,
            )
        except OSError as error:
            raise EngineError(
                f"{self._plan.program} can't be started ({self._plan.argv[0]}): {error.strerror}."
            ) from None

    async def _explain(self, child: ChildProcess, when: str) -> None:
        """Raises EngineError when the child has ended by itself."""
        if child.alive:
            return
        # Unready first: what the child said is read to its end only then.
        self.status.move(State.FAILED, f"{self._plan.program} ended {when}")
        # What it left behind may hold its output open.
        status = await child.stop(0)
        ending = f"the loss of its process {self._loss}" if self._loss else describe_exit(status)
        await child.drain_output(LAST_WORDS_SECONDS)
        fault = hardware_fault(child.lines)
        if fault is not None:
            raise HardwareError(f"{self._plan.program} ended with {ending} {when}, by a fault of the hardware: {fault}")
        raise EngineError(explain_exit(self._plan.program, ending, child.lines, when=when))

    def _own_host(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.bind_host, self._settings.bind_host)  # noqa: S104
        return f"[{host}]" if ":" in host else host

    @staticmethod
    async def _first(**coroutines: Coroutine[Any, Any, Any]) -> str:
        """Run them side by side until one ends, cancel the others; name of that one, in the order given. Raises what it
        raised.
        """
        tasks = {name: asyncio.create_task(coroutine, name=name) for name, coroutine in coroutines.items()}
        try:
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            first = next(name for name, task in tasks.items() if task.done())
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        tasks[first].result()
        return first
