"""kopf itself at its end, with tasks of others in the same loop."""

from __future__ import annotations

import asyncio

import kopf
from kopf._cogs.aiokits import aioadapters

from paceline.controller.kopf_tasks import OthersTasks


async def ends() -> None:
    """A task at the root of kopf: when it ends, kopf does."""


async def test_tasks_of_others_outlive_kopf_and_are_not_waited_for() -> None:
    ours = asyncio.create_task(asyncio.sleep(4.5))  # kopf waits 5 s for what it takes for its own
    await kopf.run_tasks([asyncio.create_task(ends())], ignored=OthersTasks())
    assert not ours.done()
    ours.cancel()


async def test_kopf_still_tidies_up_its_own() -> None:
    flag = asyncio.Event()
    left_behind = asyncio.create_task(aioadapters.wait_flag(flag))
    asyncio.get_running_loop().call_later(0.2, flag.set)
    await kopf.run_tasks([asyncio.create_task(ends())], ignored=OthersTasks())
    assert left_behind.done()


async def test_the_tasks_of_others_are_counted_as_they_are_at_the_moment() -> None:
    others = OthersTasks()
    before = len(others)
    kopfs = asyncio.create_task(aioadapters.wait_flag(asyncio.Event()))
    ours = asyncio.create_task(asyncio.Event().wait())
    assert len(others) == before + 1
    assert ours in others
    assert kopfs not in others
    assert set(others) == asyncio.all_tasks() - {kopfs}
    kopfs.cancel()
    ours.cancel()
