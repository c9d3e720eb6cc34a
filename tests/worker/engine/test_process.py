"""A child process and its descendants."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from pathlib import Path

import pytest

from paceline_worker.engine.process import LINE_LIMIT, ChildProcess, describe_exit
from tests.processes import gone, is_running


async def start(code: str, output: io.StringIO) -> ChildProcess:
    argv = [sys.executable, "-u", "-c", code]
    return await ChildProcess.start(argv, os.environ, prefix="[engine] ", output=output)


async def test_lines_are_forwarded_with_a_prefix_and_kept():
    output = io.StringIO()
    child = await start("import sys; print('one'); print('two', file=sys.stderr)", output)
    assert await child.wait() == 0
    await child.drain_output(10)
    assert output.getvalue() == "[engine] one\n[engine] two\n"
    assert child.lines == ("one", "two")
    await child.stop(0)


async def test_a_line_without_end_is_forwarded_in_pieces():
    output = io.StringIO()
    child = await start(f"print('x' * {3 * LINE_LIMIT}, end='')", output)
    await child.wait()
    await child.drain_output(10)
    assert [len(line) for line in child.lines] == [LINE_LIMIT] * 3
    await child.stop(0)


async def test_a_child_that_ends_when_asked_is_not_killed():
    output = io.StringIO()
    code = "import signal,sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('up'); signal.pause()"
    child = await start(code, output)
    while not child.lines:
        assert child.alive
        await asyncio.sleep(0.01)
    assert await child.stop(30) == 7
    assert not child.alive


async def test_a_child_that_ignores_the_request_is_killed_with_its_children(tmp_path: Path):
    pids = tmp_path / "pids"
    code = (
        "import os,signal,subprocess,sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r}, 'w').write(str(grandchild.pid))\n"
        "print('up')\n"
        "signal.pause()\n"
    )
    child = await start(code, io.StringIO())
    while not child.lines:
        assert child.alive
        await asyncio.sleep(0.01)
    grandchild = int(pids.read_text())
    assert is_running(grandchild)
    assert describe_exit(await child.stop(0.1)) == "SIGKILL"
    await gone([grandchild])


async def test_what_a_dead_child_left_behind_is_killed_too(tmp_path: Path):
    pids = tmp_path / "pids"
    code = (
        "import subprocess,sys\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "grandchild = subprocess.Popen(sleep, start_new_session=True)\n"
        f"open({str(pids)!r}, 'w').write(str(grandchild.pid))\n"
    )
    child = await start(code, io.StringIO())
    assert await child.wait() == 0
    grandchild = int(pids.read_text())
    assert is_running(grandchild)
    await child.stop(0)
    await gone([grandchild])


async def test_a_program_that_does_not_exist_is_an_os_error():
    with pytest.raises(FileNotFoundError):
        await ChildProcess.start(["/no/such/program"], {}, prefix="", output=io.StringIO())


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (3, "exit status 3"), (-9, "SIGKILL"), (-64, "SIGRTMAX")]
)
def test_exit_statuses_in_words(status: int, words: str):
    assert describe_exit(status) == words


async def test_a_line_that_alarms_is_told_while_the_child_lives_and_only_the_first():
    code = "import time\nfor name in ('a', 'bad one', 'bad two'): print(name)\ntime.sleep(600)"
    child = await ChildProcess.start(
        [sys.executable, "-u", "-c", code], os.environ, prefix="", output=io.StringIO(),
        alarming=lambda line: line.upper() if line.startswith("bad") else None,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            assert await child.wait_for_alarm() == "BAD ONE"
        assert child.alive
    finally:
        await child.stop(0)
