"""One process of a pod: its output, its exit, and no member of its group left behind."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.errors import LocalRuntimeError
from paceline.local.guard import Guard
from paceline.local.logs import PodLog
from paceline.local.process import PodProcess, Program, describe_exit
from tests.local.support import fake_pod, python
from tests.processes import is_running
from tests.waiting import until


@pytest.fixture
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PodLog]:
    log = PodLog(tmp_path / "pod.log")
    yield log
    log.close()


async def test_output_of_both_streams_and_the_exit_code_are_kept(guard: Guard, log: PodLog) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    process = PodProcess.start(python(code), log, guard)
    assert await process.exited == 7
    assert log.last_lines(2) == ["out", "err"]


async def test_a_process_leads_a_group_of_its_own(guard: Guard, log: PodLog) -> None:
    process = PodProcess.start(fake_pod(FAKE_MODE="mute"), log, guard)
    assert os.getpgid(process.pid) == process.pid
    await process.stop(10)


async def test_a_process_that_is_asked_to_go_goes(guard: Guard, log: PodLog) -> None:
    process = PodProcess.start(fake_pod(FAKE_MODE="mute"), log, guard)
    await until(lambda: log.last_lines(1))
    assert await process.stop(10) in {0, -signal.SIGTERM}


async def test_a_process_that_does_not_go_is_killed(guard: Guard, log: PodLog) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf'); time.sleep(600)"
    stubborn = PodProcess.start(python(code), log, guard)
    await until(lambda: "deaf" in log.last_lines(5))
    assert await stubborn.stop(0.05) == -signal.SIGKILL


async def test_children_of_a_leader_that_is_killed_are_killed_too(guard: Guard, log: PodLog, tmp_path: Path) -> None:
    note = tmp_path / "child"
    process = PodProcess.start(fake_pod(FAKE_MODE="mute", FAKE_CHILD=str(note)), log, guard)
    await until(note.exists)
    child = int(note.read_text())
    assert is_running(child)
    os.kill(process.pid, signal.SIGKILL)
    assert await process.exited == -signal.SIGKILL
    await until(lambda: not is_running(child))


async def test_an_exit_is_seen_while_somebody_else_holds_the_output_open(guard: Guard, log: PodLog) -> None:
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    process = PodProcess.start(python(code), log, guard)
    try:
        assert await process.exited == 0
    finally:
        os.kill(int(log.last_lines(1)[0]), signal.SIGKILL)


async def test_a_pod_learns_of_its_parents_end_through_a_pipe_of_its_own(guard: Guard, log: PodLog) -> None:
    code = "import os; fd = int(os.environ['PACELINE_PARENT_FD']); os.set_blocking(fd, False); print('set'); input()"
    first = PodProcess.start(python(code), log, guard)
    await first.exited
    code = "import os; print('blocking' if os.get_blocking(int(os.environ['PACELINE_PARENT_FD'])) else 'shared')"
    second = PodProcess.start(python(code), log, guard)
    await second.exited
    assert log.last_lines(1) == ["blocking"]


async def test_no_descriptor_of_the_runtime_is_left_open(guard: Guard, log: PodLog) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        process = PodProcess.start(python("pass"), log, guard)
        await process.exited
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_program_that_is_not_there_is_named(guard: Guard, log: PodLog) -> None:
    with pytest.raises(LocalRuntimeError, match=r"Can't start /no/such/program: No such file or directory\."):
        PodProcess.start(Program(("/no/such/program",), {}), log, guard)


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "signal SIGKILL"), (-99, "signal 99")]
)
def test_an_exit_is_described_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
