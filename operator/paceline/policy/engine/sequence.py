"""What the engine model schedules and what it answers: sequences, fetches of KV blocks, steps."""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Content(Protocol):
    """What a sequence holds. The emulator knows its tokens, the simulator only hashes; the model needs no more."""

    def hashes(self, count: int) -> collections.abc.Sequence[int]:
        """Chained hashes of at least the first ``count`` full blocks; their tokens are known when this is asked."""
        ...


class State(StrEnum):
    """Where a sequence is."""

    WAITING = "waiting"
    """In the queue, without blocks."""
    FETCHING = "fetching"
    """Its blocks are reserved and filled from elsewhere."""
    READY = "ready"
    """Fetched; runs as soon as the batch has a place."""
    RUNNING = "running"
    HELD = "held"
    """Finished, its blocks kept for another engine."""
    FINISHED = "finished"


class Sequence:
    """One prompt and its output. Made by the driver, changed only by the engine model."""

    __slots__ = (
        "blocks", "cached_tokens", "computed", "content", "hold", "host_tokens", "order", "output_limit",
        "preemptions", "priority", "prompt_tokens", "remote", "remote_tokens", "sealed", "state", "total",
    )  # fmt: skip

    def __init__(
        self,
        content: Content,
        prompt_tokens: int,
        output_limit: int,
        *,
        priority: int = 0,
        remote: bool = False,
        hold: bool = False,
    ) -> None:
        """``remote``: fetch the prompt's blocks from another engine. ``hold``: keep the blocks after the end.

        Lower ``priority`` goes first, as in vLLM.
        """
        if prompt_tokens < 1 or output_limit < 1:
            raise ValueError(f"a sequence needs a prompt and an output, not {prompt_tokens} and {output_limit} tokens")
        self.content = content
        self.prompt_tokens = prompt_tokens
        self.output_limit = output_limit
        self.priority = priority
        self.remote = remote
        self.hold = hold
        self.state = State.WAITING
        self.order = -1
        """Place in the order of arrival; given by the engine model."""
        self.blocks: list[int] = []
        self.computed = 0
        """Tokens whose KV is there."""
        self.sealed = 0
        """Blocks of them that can be matched by others."""
        self.total = prompt_tokens
        """Tokens known so far: prompt and output."""
        self.cached_tokens = 0
        """Of the prompt, found on the accelerator when first admitted."""
        self.host_tokens = 0
        """Of the prompt, loaded from host memory."""
        self.remote_tokens = 0
        """Of the prompt, received from another engine."""
        self.preemptions = 0

    @property
    def generated(self) -> int:
        """Output tokens so far."""
        return self.total - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Output tokens that it may still produce."""
        return self.prompt_tokens + self.output_limit - self.total


class Source(StrEnum):
    """Where a fetch gets its blocks from."""

    HOST = "host"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class Fetch:
    """Blocks of a sequence that come from elsewhere. The driver answers with ``arrived`` or ``failed`` in the end."""

    sequence: Sequence
    source: Source
    tokens: int
    seconds: float
    """How long the model says it takes."""


@dataclass(slots=True)
class Step:
    """One step of the engine, already done in the model. The driver lets ``duration`` pass, then hands out tokens."""

    duration: float = 0.0
    """Seconds; 0 if the step only started fetches."""
    steps: int = 1
    """Decode steps that this stands for; more than one from ``advance``."""
    emitted: list[Sequence] = field(default_factory=list)
    """Each has one more token (``steps`` more from ``advance``)."""
    finished: list[Sequence] = field(default_factory=list)
    """Those of ``emitted`` that reached their output limit."""
    admitted: list[Sequence] = field(default_factory=list)
    """Entered the batch, again if they were preempted before."""
    preempted: list[Sequence] = field(default_factory=list)
    fetches: list[Fetch] = field(default_factory=list)
    prefill_tokens: int = 0
    """Tokens computed for prompts (or again after a preemption)."""
