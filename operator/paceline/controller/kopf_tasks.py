"""Runs kopf beside others. At its end kopf takes every task that began after it for one of its own: it waits 5 s for it
and then cancels it, which would leave an operator that goes on without its watches and its planners.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import kopf

_KOPF = str(Path(kopf.__file__).parent)


class OthersTasks(Collection[asyncio.Task[Any]]):
    """The tasks of the running loop that are not kopf's, as of the moment of asking."""

    def __contains__(self, task: object) -> bool:
        return isinstance(task, asyncio.Task) and not _is_kopfs(task)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return (task for task in asyncio.all_tasks() if task in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


async def run_kopf(**settings: Any) -> None:
    """What :func:`kopf.operator` does with the same arguments, but for the tasks of others: these are let alone."""
    await kopf.run_tasks(await kopf.spawn_tasks(**settings), ignored=OthersTasks())


def _is_kopfs(task: asyncio.Task[Any]) -> bool:
    # Nothing says who began a task; whose code it runs does.
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_KOPF)
