"""How much of their time engines with streams give to prompts.

Two kinds of engine do both: one that has become a prefill engine and finishes its streams, and a decode engine that
computes short prompts itself because that is done sooner than their KV blocks could be fetched.

The first takes up its new role at once, but the streams of its former one stay where their KV blocks are. Every prompt
that it computes stops them all for as long; a few in a row, and each has missed its objective. So it computes one
prompt at a time, and between two prompts it only decodes, for as long as its streams need to come out at the objective:
with ``rest`` seconds of steps after ``prompt`` seconds without, the mean time between tokens is
``step · (prompt + rest) / rest``. The fewer streams are left, the shorter the steps and the rests.

A short prompt joins a step of the streams, and makes it longer by its own work. One does no harm. Two hundred a second,
each worth 2 ms, make every step half as long again, and what had been a fast way for each becomes a slow one for all
streams. So the streams of a decode engine are owed steps without prompts too, so many that prompts take up at most half
of what is left between a step and the objective; and a prompt goes to a prefill engine where that is done before as
much is owed no more.

Used by the router and by the simulator.
"""

from __future__ import annotations

from typing import Final

MOST_REST: Final = 10.0
"""Times the prompt: where steps are at the objective by themselves, no rest would be long enough."""
SHARED: Final = 0.5
"""Of what is left between a step and the objective, that short prompts may take up: streams differ."""
MOST_OWED: Final = 100.0
"""Times the prompt, as :data:`MOST_REST`: a prefill engine can do it, so that it need not be done here at all."""
MOST_OWED_SECONDS: Final = 1.0
"""In all: where no prefill engine is there for long, or for long too busy, the streams pay, and not for ever."""


def rest_seconds(prompt_seconds: float, *, step_seconds: float, itl_seconds: float) -> float:
    """Seconds without prompts that an engine with streams owes them after a prompt of ``prompt_seconds``.

    ``step_seconds``: of its batch as it is; ``itl_seconds``: mean time between tokens that the streams are to have.
    """
    spare = itl_seconds - step_seconds
    if spare * MOST_REST <= step_seconds:
        return MOST_REST * prompt_seconds
    return prompt_seconds * step_seconds / spare


def owed_until(now: float, owed: float, prompt_seconds: float, *, step_seconds: float, itl_seconds: float) -> float:
    """Until when the streams of a decode engine are owed steps without prompts, with one more prompt.

    ``owed``: until when without it; ``prompt_seconds``: what it adds to a step. If the next one comes then, the mean
    time between tokens is ``step · (prompt + rest) / rest``, which is ``step + SHARED · (itl - step)``.
    """
    spare = SHARED * (itl_seconds - step_seconds)
    rest = MOST_OWED if spare * MOST_OWED <= step_seconds else step_seconds / spare
    return min(max(now, owed) + (1 + rest) * prompt_seconds, now + MOST_OWED_SECONDS)
