"""A generated load with the shape of agent traffic, for when no real trace is at hand.

A task starts with one of a few applications' system prompts (tools and instructions, some far more popular than others)
and a message. Then it goes round: the model answers with a tool call, the tool takes its time, its result joins the
context, and the whole context is sent again. Now and then the tool is a set of sub-agents: each works the same way in a
session of its own, on a system prompt that all sub-agents of the application share, and the parent goes on when the
last of them is done. So prompts are long, nearly all of each was seen seconds before, and requests of one task come in
trains. Same arguments and same ``rng`` state: same load.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from paceline.errors import ConfigError
from paceline.traces.generate import BLOCK_SIZE, MAX_REQUESTS, BlockIds, log_normal
from paceline.traces.record import Trace, TraceRequest, assumed_answer_seconds, in_order

LEAST_MODEL_LENGTH: Final = 2048
_SETTLING_SECONDS: Final = 600.0
"""How long the traffic has been going on before the window begins."""


@dataclass(frozen=True, slots=True)
class AgentShape:
    """What tasks look like. Lengths in tokens; medians and sigmas are those of log-normal distributions."""

    requests_per_second: float = 3.0
    applications: int = 6
    system_tokens: int = 6144
    """Rounded up to whole blocks, because it is shared block by block."""
    sub_agent_system_tokens: int = 2048
    task_median: int = 600
    task_sigma: float = 1.0
    output_median: int = 160
    output_sigma: float = 0.9
    tool_median: int = 500
    """Tokens of a tool's result."""
    tool_sigma: float = 1.2
    tool_seconds_median: float = 2.0
    tool_seconds_sigma: float = 1.2
    steps_mean: float = 10.0
    """Calls of the model in a task; geometric."""
    delegation: float = 0.06
    """Probability that the tool of a step is a set of sub-agents."""
    sub_agents_max: int = 4
    """At once; from 1 to this, equally likely."""
    sub_steps_mean: float = 5.0
    max_tokens: int = 65_536
    """Prompt plus output of any request; a task ends before it grows past this."""

    def fitted(self, max_model_len: int) -> AgentShape:
        """The same shape for a model of this length: every length shrinks in proportion if the model is shorter.

        Raises :class:`ConfigError` for a length that leaves no room for a task.
        """
        if max_model_len >= self.max_tokens:
            return self
        if max_model_len < LEAST_MODEL_LENGTH:
            raise ConfigError(
                f"generated agents need a model length of at least {LEAST_MODEL_LENGTH} tokens; "
                f"this one has {max_model_len}."
            )
        ratio = max_model_len / self.max_tokens
        return replace(
            self,
            system_tokens=max(BLOCK_SIZE, int(self.system_tokens * ratio)),
            sub_agent_system_tokens=max(BLOCK_SIZE, int(self.sub_agent_system_tokens * ratio)),
            task_median=max(16, int(self.task_median * ratio)),
            output_median=max(8, int(self.output_median * ratio)),
            tool_median=max(8, int(self.tool_median * ratio)),
            max_tokens=max_model_len,
        )

    @property
    def requests_per_task(self) -> float:
        """Mean number of requests of a task and its sub-agents, but for those that the length limit ends early."""
        each = (1 + self.sub_agents_max) / 2 * self.sub_steps_mean
        return self.steps_mean + (self.steps_mean - 1) * self.delegation * each


def generate_agents(shape: AgentShape, *, seconds: float, rng: random.Random) -> Trace:
    """Requests that arrive within ``seconds``: a window cut out of traffic that has been going on for a while.

    Raises :class:`ConfigError` if more than ``MAX_REQUESTS`` requests would be expected or if none arrives.
    """
    expected = shape.requests_per_second * seconds
    if expected > MAX_REQUESTS:
        raise ConfigError(f"{expected:,.0f} requests are too many to generate; at most {MAX_REQUESTS:,}.")
    work = _Work(shape, rng)
    start_rate = shape.requests_per_second / shape.requests_per_task
    start = rng.expovariate(start_rate) - _SETTLING_SECONDS
    number = 0
    while start < seconds:
        work.task(f"a{number}", start)
        start += rng.expovariate(start_rate)
        number += 1
    requests = [request for request in work.requests if 0 <= request.arrival_seconds < seconds]
    if not requests:
        raise ConfigError(
            f"the generated load is empty: {expected:.2g} requests are expected in {seconds:g} s; ask for more time."
        )
    return Trace("agents", in_order(requests))


class _Work:
    """Draws tasks, one after the other."""

    def __init__(self, shape: AgentShape, rng: random.Random) -> None:
        self._shape = shape
        self._rng = rng
        self._system = -(-shape.system_tokens // BLOCK_SIZE)
        self._sub_system = -(-shape.sub_agent_system_tokens // BLOCK_SIZE)
        self._popularity = [1 / (rank + 1) for rank in range(shape.applications)]
        self._ids = BlockIds(shape.applications * (self._system + self._sub_system))
        self.requests: list[TraceRequest] = []

    def task(self, session: str, start: float) -> None:
        """One task with all its sub-agents."""
        application = self._rng.choices(range(self._shape.applications), self._popularity)[0]
        first = application * (self._system + self._sub_system)
        sub_agent = range(first + self._system, first + self._system + self._sub_system)
        self._go_round(session, start, range(first, first + self._system), self._shape.steps_mean, sub_agent)

    def _go_round(
        self, session: str, start: float, system: Sequence[int], steps_mean: float, sub_agent: Sequence[int]
    ) -> tuple[float, int]:
        """The requests of one agent. Returns when its last answer ended, and the tokens of that answer.

        ``system``: blocks of its system prompt. ``sub_agent``: those of its sub-agents; without them it has none.
        """
        shape, rng = self._shape, self._rng
        blocks = list(system)
        prompt = len(blocks) * BLOCK_SIZE + log_normal(rng, shape.task_median, shape.task_sigma)
        arrival, children, output = start, 0, 0
        while True:
            room = shape.max_tokens - prompt
            if room < 1:
                return arrival, output
            output = min(room, log_normal(rng, shape.output_median, shape.output_sigma))
            self._ids.grow(blocks, prompt)
            self.requests.append(TraceRequest(arrival, prompt, output, tuple(blocks), BLOCK_SIZE, session))
            arrival += assumed_answer_seconds(output)
            if rng.random() < 1 / steps_mean:
                return arrival, output
            self._ids.grow(blocks, prompt + output)
            if sub_agent and rng.random() < shape.delegation:
                count = rng.randint(1, shape.sub_agents_max)
                ends = [
                    self._go_round(f"{session}/{children + index}", arrival, sub_agent, shape.sub_steps_mean, ())
                    for index in range(count)
                ]
                children += count
                arrival = max(end for end, _ in ends)
                result = sum(tokens for _, tokens in ends)
            else:
                arrival += rng.lognormvariate(math.log(shape.tool_seconds_median), shape.tool_seconds_sigma)
                result = log_normal(rng, shape.tool_median, shape.tool_sigma)
            prompt += output + result
