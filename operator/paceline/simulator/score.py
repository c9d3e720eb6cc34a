"""What came of every request: the figures that reports and policies are made of."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paceline.policy.scaling.demand import TOKEN_BOUNDS, cells_from_histograms
from paceline.policy.scaling.observation import ArrivalCell, CompletionCell
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.simulator.request import Outcome, SimRequest
from paceline.simulator.settings import Objective
from paceline.simulator.workload import Workload


def feasible(workload: Workload, profile: EngineProfile, objective: Objective) -> NDArray[np.bool_]:
    """Which requests could meet the TTFT alone on idle engines with empty caches.

    The others can't be saved by more engines, only by a cache that happens to hold their prefix, so no policy is
    measured by them. Same formulas as :meth:`EngineProfile.prefill_seconds`, for all requests at once.
    """
    prompts, _ = workload.sizes()
    prefill = profile.prefill_base + prompts * (profile.prefill_token + profile.prefill_attention * prompts / 2)
    transfer = profile.transfer_setup + prompts * (profile.kv_bytes_per_token / profile.transfer_bandwidth)
    first_step = profile.step_base + profile.step_sequence + profile.step_context * prompts
    return np.asarray(prefill + transfer + first_step <= objective.ttft_seconds)


class Attained(NamedTuple):
    """What came of requests between two scrapes, as histograms show it: of the TTFT when the first token comes, of the
    rest when the last one does. Refused ones count as both.
    """

    begun: int
    """Requests that got their first token."""
    ttft: int
    """Those of them that got it in time."""
    ended: int
    """Requests that got their last token."""
    itl: int
    """Those of them whose ITL was met."""
    both: int


class Harvest(NamedTuple):
    """What came and went between two scrapes, as the planner is shown it."""

    arrived: tuple[ArrivalCell, ...]
    completed: tuple[CompletionCell, ...]
    attained: Attained


class Journal:
    """What came and went since the last scrape, in the buckets of the router's histograms."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        buckets = len(TOKEN_BOUNDS) + 1
        self._uncached = [0] * buckets
        self._cached = [0] * buckets
        self._uncached_sum = self._cached_sum = 0
        self._completed: dict[int, tuple[int, int, int]] = {}
        self._begun = self._ended = self._in_ttft = self._in_itl = self._in_both = 0

    def arrived(self, uncached: int, cached: int) -> None:
        """A prompt came."""
        self._uncached[bisect_left(TOKEN_BOUNDS, uncached)] += 1
        self._cached[bisect_left(TOKEN_BOUNDS, cached)] += 1
        self._uncached_sum += uncached
        self._cached_sum += cached

    def completed(self, prompt: int, output: int) -> None:
        """A request has its last token."""
        bucket = bisect_left(TOKEN_BOUNDS, prompt)
        count, prompts, outputs = self._completed.get(bucket, (0, 0, 0))
        self._completed[bucket] = (count + 1, prompts + prompt, outputs + output)

    def begun(self, *, ttft: bool) -> None:
        """A request got its first token, or never will."""
        self._begun += 1
        self._in_ttft += ttft

    def ended(self, *, ttft: bool, itl: bool) -> None:
        """A request is completed or refused, and met the limits or not."""
        self._ended += 1
        self._in_itl += itl
        self._in_both += ttft and itl

    def harvest(self) -> Harvest:
        """Take everything out."""
        arrived = cells_from_histograms(self._uncached, self._uncached_sum, self._cached, self._cached_sum)
        completed = tuple(
            CompletionCell(prompt=prompts // count, count=count, outputs=outputs)
            for _, (count, prompts, outputs) in sorted(self._completed.items())
        )
        attained = Attained(self._begun, self._in_ttft, self._ended, self._in_itl, self._in_both)
        self._clear()
        return Harvest(arrived, completed, attained)


class Score:
    """Filled in by the router as requests come and go."""

    def __init__(self, requests: int, objective: Objective) -> None:
        self._objective = objective
        # Written one by one, which arrays do faster than numpy; read through views of numpy's.
        self._ttft = array("d", [math.nan]) * requests
        self._itl = array("d", [math.nan]) * requests
        self._outcome = bytearray(requests)
        self.ttft = np.frombuffer(self._ttft, dtype=np.float64)
        """Seconds from arrival to the first token; NaN if there was none."""
        self.itl = np.frombuffer(self._itl, dtype=np.float64)
        """Mean seconds between tokens; 0 for a single token."""
        self.outcome = np.frombuffer(self._outcome, dtype=np.int8)
        """An :class:`Outcome` each."""
        self.arrivals = 0
        self.prompt_tokens = 0
        self.uncached_tokens = 0
        self.completed = 0
        self.rejected = 0
        self.output_tokens = 0
        self.computed_tokens = 0
        """Prompt tokens of completed requests that were computed, not found in a cache."""
        self.completed_prompt_tokens = 0
        self.journal = Journal()

    @property
    def open(self) -> int:
        """Requests that have arrived and not ended."""
        return self.arrivals - self.completed - self.rejected

    def arrived(self, request: SimRequest, uncached: int) -> None:
        """See :class:`paceline.simulator.owner.Observer`."""
        self.arrivals += 1
        self.prompt_tokens += request.prompt
        self.uncached_tokens += uncached
        self.journal.arrived(uncached, request.prompt - uncached)

    def begun(self, request: SimRequest, at: float) -> None:
        """See :class:`paceline.simulator.owner.Observer`."""
        self.journal.begun(ttft=at - request.arrived <= self._objective.ttft_seconds)

    def ended(self, request: SimRequest, outcome: Outcome, at: float) -> None:
        """See :class:`paceline.simulator.owner.Observer`."""
        number = request.number
        self._outcome[number] = outcome
        if outcome is Outcome.REJECTED:
            self.rejected += 1
            self.journal.begun(ttft=False)
            self.journal.ended(ttft=False, itl=False)
            return
        self.completed += 1
        self.output_tokens += request.output
        self.journal.completed(request.prompt, request.output)
        self.completed_prompt_tokens += request.prompt
        self.computed_tokens += request.prompt - request.cached
        first, output = request.first_token, request.output
        self._ttft[number] = ttft = first - request.arrived
        self._itl[number] = itl = (at - first) / (output - 1) if output > 1 else 0.0
        objective = self._objective
        self.journal.ended(ttft=ttft <= objective.ttft_seconds, itl=itl <= objective.itl_seconds)
