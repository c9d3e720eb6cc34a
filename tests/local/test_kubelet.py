"""The life of a pod: started, found ready, started again when it dies, given up when that is no use."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from paceline.api import wire
from paceline.clock import WallClock
from paceline.errors import ConfigError, LocalRuntimeError
from paceline.local.guard import Guard
from paceline.local.kubelet import Launch, PodPhase, PodRunner, Readiness, RestartPolicy
from paceline.local.logs import PodLog
from paceline.local.ports import PortAllocator
from paceline.local.probe import PodClient
from tests.local.support import fake_pod
from tests.processes import is_running
from tests.waiting import until

FAST = RestartPolicy(
    30.0, first_pause_seconds=0.01, longest_pause_seconds=0.02, starting_poll_seconds=0.02, ready_poll_seconds=0.02
)
Start = Callable[..., AbstractAsyncContextManager[PodRunner]]


@pytest.fixture
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


@pytest.fixture
def pod(guard: Guard, tmp_path: Path) -> Start:
    @asynccontextmanager
    async def start(policy: RestartPolicy = FAST, **env: str) -> AsyncIterator[PodRunner]:
        import random

        ports = PortAllocator("127.0.0.1", random.Random())
        phases: list[PodPhase] = []

        def launch() -> Launch:
            admin = ports.take()
            program = fake_pod(FAKE_ADMIN_PORT=str(admin), **env)
            return Launch(program, wire.EnginePorts(admin=admin), lambda: ports.release(admin))

        async with aiohttp.ClientSession() as session:
            runner = PodRunner(
                "pod-0",
                launch=launch,
                probe=PodClient(session).ready,
                policy=policy,
                log=PodLog(tmp_path / "pod-0.log"),
                guard=guard,
                clock=WallClock(),
                changed=lambda: phases.append(runner.status.phase),
            )
            runner.phases = phases  # type: ignore[attr-defined]
            runner.start()
            try:
                yield runner
            finally:
                await runner.stop(0)

    return start


async def test_a_pod_is_ready_when_it_says_so(pod: Start) -> None:
    async with pod() as runner:
        await until(lambda: runner.status.phase is PodPhase.READY)
        assert runner.status.start_id == "pod-0-1"
        await runner.stop(10)
        assert runner.status.phase is PodPhase.STOPPED
        assert runner.phases == [PodPhase.STARTING, PodPhase.READY, PodPhase.STOPPED]


async def test_a_pod_that_is_not_ready_says_what_it_waits_for(pod: Start) -> None:
    async with pod(FAKE_MODE="never") as runner:
        await until(lambda: runner.status.reason == "loading weights")
        assert runner.status.phase is PodPhase.STARTING


async def test_a_pod_that_is_killed_is_not_ready_at_once_and_starts_again_as_another(pod: Start) -> None:
    async with pod() as runner:
        await until(lambda: runner.status.phase is PodPhase.READY)
        first = runner.status.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: runner.status.starts == 2 and runner.status.phase is PodPhase.READY)
        assert runner.status.start_id == "pod-0-2"
        assert runner.status.pid != first
        assert runner.status.last_end == "ended with signal SIGKILL"
        assert runner.phases[2:4] == [PodPhase.WAITING, PodPhase.STARTING]


async def test_a_pod_that_never_gets_ready_is_given_up_with_its_last_words(pod: Start) -> None:
    async with pod(FAKE_MODE="crash") as runner:
        await until(lambda: runner.status.phase is PodPhase.FAILED)
        assert runner.status.starts == 3
        assert "it never got ready in 3 starts in a row" in runner.failure
        assert "ended with exit code 1" in runner.failure
        assert runner.status.last_end == "ended with exit code 1 (no more of this)"
        assert "error: no more of this" in runner.failure
        assert "pod-0.log" in runner.failure


async def test_a_pod_that_is_not_ready_in_time_is_killed(pod: Start) -> None:
    policy = RestartPolicy(0.2, max_failed_starts=1, starting_poll_seconds=0.02)
    async with pod(policy, FAKE_MODE="never") as runner:
        await until(lambda: runner.status.starts == 1)
        pid = runner.status.pid
        await until(lambda: runner.status.phase is PodPhase.FAILED)
        assert not is_running(pid)
        assert "it never got ready in the start" in runner.failure
        assert "it has 0.2 s for each" in runner.failure


async def test_a_pod_whose_configuration_can_not_work_is_not_started_again(pod: Start) -> None:
    async with pod(FAKE_MODE="crash", FAKE_EXIT=str(ConfigError.exit_code)) as runner:
        await until(lambda: runner.status.phase is PodPhase.FAILED)
        assert runner.status.starts == 1
        assert "its configuration can't work here (exit code 2)" in runner.failure


async def test_a_pod_that_does_not_go_is_killed_with_its_children(pod: Start, tmp_path: Path) -> None:
    note = tmp_path / "child"
    async with pod(FAKE_MODE="stubborn", FAKE_CHILD=str(note)) as runner:
        await until(lambda: runner.status.phase is PodPhase.READY)
        pids = [runner.status.pid, int(note.read_text())]
        await runner.stop(0.05)
        await until(lambda: not any(map(is_running, pids)))


async def test_a_kill_ends_a_stop_that_waits(pod: Start) -> None:
    import asyncio

    async with pod(FAKE_MODE="stubborn") as runner:
        await until(lambda: runner.status.phase is PodPhase.READY)
        stopping = asyncio.create_task(runner.stop(600))
        await asyncio.sleep(0)
        runner.kill()
        await asyncio.wait_for(stopping, 20)


async def test_a_pod_that_can_not_be_launched_is_given_up(guard: Guard, tmp_path: Path) -> None:
    def launch() -> Launch:
        raise LocalRuntimeError("Variable A is nowhere.")

    runner = PodRunner(
        "pod-0", launch=launch, probe=never_asked, policy=FAST, log=PodLog(tmp_path / "log"),
        guard=guard, clock=WallClock(), changed=lambda: None,
    )  # fmt: skip
    runner.start()
    await until(lambda: runner.status.phase is PodPhase.FAILED)
    assert runner.failure.startswith("pod-0: Variable A is nowhere. It wrote nothing.")
    await runner.stop(0)


async def test_a_ready_pod_may_leave_a_question_or_two_unanswered(guard: Guard, tmp_path: Path) -> None:
    ready, silence = Readiness(True), Readiness(False, "does not answer", answered=False)
    answers = [ready, silence, silence, ready, silence, silence, silence, ready]

    async def probe(port: int, /) -> Readiness:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    phases: list[PodPhase] = []
    runner = PodRunner(
        "pod-0", launch=lambda: Launch(fake_pod(FAKE_MODE="mute"), wire.EnginePorts(), lambda: None), probe=probe,
        policy=FAST, log=PodLog(tmp_path / "log"), guard=guard, clock=WallClock(),
        changed=lambda: phases.append(runner.status.phase),
    )  # fmt: skip
    runner.start()
    await until(lambda: len(answers) == 1 and runner.status.phase is PodPhase.READY)
    await runner.stop(0)
    assert phases == [PodPhase.STARTING, PodPhase.READY, PodPhase.STARTING, PodPhase.READY, PodPhase.STOPPED]


async def never_asked(port: int, /) -> None:
    raise AssertionError("a pod that was not launched was asked whether it is ready")


def test_pauses_grow_to_a_bound() -> None:
    policy = RestartPolicy(1.0, first_pause_seconds=0.5, longest_pause_seconds=3.0)
    assert [policy.pause_seconds(failures) for failures in (1, 2, 3, 4, 1000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
