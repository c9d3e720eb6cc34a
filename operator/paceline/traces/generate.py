"""A generated load with the shape of chat traffic, for when no real trace is at hand.

Conversations start as a Poisson process. Each takes one of a few system prompts (some far more popular than others),
runs for a geometric number of turns with exponential pauses, and sends its whole history with each turn, so later
turns share a growing prefix with earlier ones. Lengths of messages and answers are log-normal. Same arguments and
same ``rng`` state: same load.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from paceline.errors import ConfigError
from paceline.traces.record import Trace, TraceRequest, in_order

BLOCK_SIZE: Final = 64
MAX_REQUESTS: Final = 1_000_000
"""A load expected to be larger is refused."""
_SETTLING: Final = 3
"""How many mean conversation lengths the traffic has been going on before the window begins."""


@dataclass(frozen=True, slots=True)
class ConversationShape:
    """What the conversations look like. Lengths in tokens; medians and sigmas are those of log-normal distributions."""

    requests_per_second: float = 3.4
    turns_mean: float = 4.0
    pause_seconds_mean: float = 20.0
    """Between the arrival of one turn and of the next."""
    system_prompts: int = 8
    system_tokens: int = 1024
    """Rounded up to whole blocks, because it is shared block by block."""
    message_median: int = 1500
    message_sigma: float = 1.1
    output_median: int = 250
    output_sigma: float = 0.8
    max_tokens: int = 32_768
    """Prompt plus output of any request; a conversation ends before it grows past this."""

    def fitted(self, max_model_len: int) -> ConversationShape:
        """The same shape for a model of this length: every length shrinks in proportion if the model is shorter.

        Raises :class:`ConfigError` for a length that leaves no room for a conversation.
        """
        if max_model_len >= self.max_tokens:
            return self
        if max_model_len < 8 * BLOCK_SIZE:
            raise ConfigError(
                f"a generated conversation needs a model length of at least {8 * BLOCK_SIZE} tokens; "
                f"this one has {max_model_len}."
            )
        ratio = max_model_len / self.max_tokens
        return ConversationShape(
            requests_per_second=self.requests_per_second,
            turns_mean=self.turns_mean,
            pause_seconds_mean=self.pause_seconds_mean,
            system_prompts=self.system_prompts,
            system_tokens=max(BLOCK_SIZE, int(self.system_tokens * ratio)),
            message_median=max(16, int(self.message_median * ratio)),
            message_sigma=self.message_sigma,
            output_median=max(8, int(self.output_median * ratio)),
            output_sigma=self.output_sigma,
            max_tokens=max_model_len,
        )


def generate_conversations(shape: ConversationShape, *, seconds: float, rng: random.Random) -> Trace:
    """Requests that arrive within ``seconds``: a window cut out of traffic that has been going on for a while.

    Raises :class:`ConfigError` if more than ``MAX_REQUESTS`` requests would be expected or if none arrives.
    """
    expected = shape.requests_per_second * seconds
    if expected > MAX_REQUESTS:
        raise ConfigError(f"{expected:,.0f} requests are too many to generate; at most {MAX_REQUESTS:,}.")
    system_blocks = -(-shape.system_tokens // BLOCK_SIZE)
    popularity = [1 / (rank + 1) for rank in range(shape.system_prompts)]
    ids = BlockIds(shape.system_prompts * system_blocks)
    start_rate = shape.requests_per_second / shape.turns_mean
    requests: list[TraceRequest] = []
    # Conversations that began before the window still send turns in it: without them the load would ramp up.
    start = rng.expovariate(start_rate) - _SETTLING * shape.turns_mean * shape.pause_seconds_mean
    number = 0
    while start < seconds:
        prompt = rng.choices(range(shape.system_prompts), popularity)[0]
        first = prompt * system_blocks
        history = list(range(first, first + system_blocks))
        turns = _conversation(shape, f"s{number}", start, seconds, history, ids, rng)
        requests.extend(turn for turn in turns if turn.arrival_seconds >= 0)
        start += rng.expovariate(start_rate)
        number += 1
    if not requests:
        raise ConfigError(
            f"the generated load is empty: {expected:.2g} requests are expected in {seconds:g} s; ask for more time."
        )
    return Trace("conversation", in_order(requests))


class BlockIds:
    """Ids that no other block has, from ``first`` on."""

    __slots__ = ("_next",)

    def __init__(self, first: int) -> None:
        self._next = first

    def grow(self, blocks: list[int], tokens: int) -> None:
        """Append ids until the blocks cover ``tokens``."""
        missing = -(-tokens // BLOCK_SIZE) - len(blocks)
        if missing > 0:
            blocks.extend(range(self._next, self._next + missing))
            self._next += missing


def _conversation(
    shape: ConversationShape,
    session: str,
    start: float,
    end: float,
    history: list[int],
    ids: BlockIds,
    rng: random.Random,
) -> Iterator[TraceRequest]:
    """The turns of one conversation. ``history`` begins with the system prompt's blocks and grows with every turn."""
    arrival = start
    context = len(history) * BLOCK_SIZE
    turn = 0
    while arrival < end:
        prompt = context + log_normal(rng, shape.message_median, shape.message_sigma)
        output = log_normal(rng, shape.output_median, shape.output_sigma)
        if prompt + output > shape.max_tokens:
            if turn > 0:
                return
            output = min(output, shape.max_tokens // 4)
            prompt = shape.max_tokens - output
        ids.grow(history, prompt)
        yield TraceRequest(arrival, prompt, output, tuple(history), BLOCK_SIZE, session)
        context = prompt + output
        ids.grow(history, context)
        if rng.random() < 1 / shape.turns_mean:
            return
        arrival += rng.expovariate(1 / shape.pause_seconds_mean)
        turn += 1


def log_normal(rng: random.Random, median: float, sigma: float) -> int:
    """A length of at least one token."""
    return max(1, round(rng.lognormvariate(math.log(median), sigma)))
