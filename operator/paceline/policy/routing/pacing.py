"""How much of its time an engine that has become a prefill engine gives to prompts, while it finishes its streams.

An engine takes up its new role at once, but the streams of its former one stay where their KV blocks are. Every prompt
that it computes stops them all for as long; a few in a row, and each has missed its objective. So it computes one
prompt at a time, and between two prompts it only decodes, for as long as its streams need to come out at the objective:
with ``rest`` seconds of steps after ``prompt`` seconds without, the mean time between tokens is
``step · (prompt + rest) / rest``. The fewer streams are left, the shorter the steps and the rests.

Used by the router and by the simulator.
"""

from __future__ import annotations

from typing import Final

MOST_REST: Final = 10.0
"""Times the prompt: where steps are at the objective by themselves, no rest would be long enough."""


def rest_seconds(prompt_seconds: float, *, step_seconds: float, itl_seconds: float) -> float:
    """Seconds without prompts that an engine with streams owes them after a prompt of ``prompt_seconds``.

    ``step_seconds``: of its batch as it is; ``itl_seconds``: mean time between tokens that the streams are to have.
    """
    spare = itl_seconds - step_seconds
    if spare * MOST_REST <= step_seconds:
        return MOST_REST * prompt_seconds
    return prompt_seconds * step_seconds / spare
