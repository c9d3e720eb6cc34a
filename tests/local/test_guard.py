"""No orphans: not when the parent is killed, not when the guardian is, not when both are."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from paceline.local.guard import Guard
from paceline.local.guardian import MAX_GROUPS, kill_groups, start_time, watch
from tests.local.support import FAKE_POD
from tests.processes import is_running
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PARENT = """
import asyncio, os, sys
from pathlib import Path
from paceline.local.guard import Guard
from paceline.local.logs import PodLog
from paceline.local.process import PodProcess, Program

async def main(folder):
    with Guard() as guard:
        pods = []
        for number in range(2):
            env = {**os.environ, "FAKE_MODE": "stubborn", "FAKE_CHILD": str(folder / f"child{number}")}
            program = Program((sys.executable, sys.argv[2]), env)
            pods.append(PodProcess.start(program, PodLog(folder / f"{number}.log"), guard))
        while not all((folder / f"child{number}").exists() for number in range(2)):
            await asyncio.sleep(0.01)
        (folder / "draft").write_text(f"{guard.guardian_pid} " + " ".join(str(pod.pid) for pod in pods))
        (folder / "draft").replace(folder / "pids")
        await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1])))
"""


def spawn(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", *arguments], **options)  # type: ignore[call-overload]


@contextlib.asynccontextmanager
async def family(folder: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], int, list[int], list[int]]]:
    """A parent with a guard, its guardian, its pods, and the pods' children."""
    parent = spawn(PARENT, str(folder), str(FAKE_POD), cwd=ROOT)
    try:
        await until((folder / "pids").exists)
        guardian, *pods = map(int, (folder / "pids").read_text().split())
        children = [int((folder / f"child{number}").read_text()) for number in range(2)]
        assert all(map(is_running, (guardian, *pods, *children)))
        yield parent, guardian, pods, children
    finally:
        parent.kill()
        parent.wait()


async def test_nothing_is_left_when_the_parent_is_killed(tmp_path: Path) -> None:
    async with family(tmp_path) as (parent, guardian, pods, children):
        os.kill(parent.pid, signal.SIGKILL)
        await until(lambda: not any(map(is_running, (*pods, *children, guardian))))


async def test_nothing_is_left_when_a_pod_and_then_the_parent_are_killed(tmp_path: Path) -> None:
    async with family(tmp_path) as (parent, guardian, pods, children):
        os.kill(pods[0], signal.SIGKILL)
        os.kill(parent.pid, signal.SIGKILL)
        await until(lambda: not any(map(is_running, (*pods, *children, guardian))))


async def test_a_guardian_that_is_killed_is_replaced_and_the_new_one_knows_all_pods(tmp_path: Path) -> None:
    leader = spawn("import time; time.sleep(600)", start_new_session=True)
    try:
        with Guard() as guard:
            guard.register(leader.pid)
            first = guard.guardian_pid
            assert first is not None
            keeping = asyncio.create_task(guard.keep(0.01))
            os.kill(first, signal.SIGKILL)
            await until(lambda: guard.guardian_pid != first)
            keeping.cancel()
            assert is_running(leader.pid)
        assert leader.wait(10) == -signal.SIGKILL
    finally:
        leader.kill()
        leader.wait()


async def test_a_guardian_that_is_killed_is_noticed_at_the_next_pod_too() -> None:
    with Guard() as guard:
        first = guard.guardian_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: not is_running(first))
        guard.register(os.getpid())
        guard.forget(os.getpid())
        assert guard.guardian_pid != first


async def test_signals_to_the_guardian_do_not_end_it() -> None:
    with Guard() as guard:
        pid = guard.guardian_pid
        assert pid is not None
        # It answers no one; that it has set its handlers shows in /proc.
        wanted = sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        await until(lambda: ignored_signals(pid) & wanted == wanted)


def ignored_signals(pid: int) -> int:
    """As a mask, signal N at bit N - 1."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("SigIgn")).split()[1], 16)


def test_the_guardian_follows_registrations_until_the_end_of_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(["+10 100\n", "+20 200\n", "-10\n", "?\n", "+1\n", "\n"]) == {20: 200}
    assert capsys.readouterr().err.count("can't follow") == 3


def test_the_guardian_holds_a_bounded_number_of_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(watch(f"+{n} 1\n" for n in range(MAX_GROUPS + 3))) == MAX_GROUPS
    assert capsys.readouterr().err.count("can't follow") == 3


def test_a_process_that_got_the_number_of_another_is_spared() -> None:
    stranger = spawn("input()", stdin=subprocess.PIPE, start_new_session=True)
    try:
        started = start_time(stranger.pid)
        assert started is not None
        kill_groups({stranger.pid: started - 1})
        assert stranger.poll() is None
        kill_groups({stranger.pid: started})
        assert stranger.wait(10) == -signal.SIGKILL
    finally:
        stranger.kill()
        stranger.communicate()


def test_a_process_that_is_not_there_has_no_start_time() -> None:
    assert start_time(2**22 + 1) is None
