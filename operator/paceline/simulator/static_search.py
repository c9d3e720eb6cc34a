"""The smallest fixed fleet that passes the gate on a workload, found by simulating fleets near a first guess."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from paceline.api.wire import Role
from paceline.simulator.policies.base import Context, Policy
from paceline.simulator.policies.static import StaticPolicy
from paceline.simulator.report import attainment
from paceline.simulator.simulation import Run, Simulation

STATIC: Final = "static-best"

Progress = Callable[[str, float], None]
"""Hears what is simulated, and what share of it is done."""


def simulate(context: Context, policy: Policy, what: str, progress: Progress) -> Run:
    """One run of a policy; ``progress`` hears of it as ``what``."""
    total = len(context.workload)
    return Simulation(context.workload, policy, context.settings).run(
        progress=lambda arrived: progress(what, arrived / total)
    )


def passes(run: Run) -> bool:
    """Whether every request came to its end and the target share of the feasible ones met the objective."""
    met = attainment(run)
    score = run.score
    if score.completed + score.rejected < len(run.workload):
        return False
    return not met.feasible.any() or bool(met.both[met.feasible].mean() >= run.settings.objective.target)


class StaticSearch:
    """Finds the smallest fixed fleet that passes the gate.

    First the fewest decode engines that will do with as many prefill engines as there may be; then the fewest prefill
    engines; then the same with one decode engine more, for as long as each saves two.
    """

    def __init__(self, context: Context, progress: Progress) -> None:
        self._context = context
        self._progress = progress
        self._runs: dict[tuple[int, int], Run] = {}

    def run(self) -> Run:
        """The run of the best fleet; of the largest when none passes."""
        settings, guess = self._context.settings, self._context.initial
        if settings.aggregated:
            least, most = settings.bounds[Role.BOTH]
            total = self._smallest(lambda n: passes(self._at(n, 0)), guess.prefill, least, most)
            return self._at(total, 0)
        (least, most), (least_decode, most_decode) = settings.bounds[Role.PREFILL], settings.bounds[Role.DECODE]
        # Not by the ITL alone: where seats for streams are scarce, prompts wait for them and the ITL looks well.
        decode = self._smallest(lambda n: passes(self._at(most, n)), guess.decode, least_decode, most_decode)
        prefill = self._fewest_prefill(decode, guess.prefill, least, most)
        while decode < most_decode and prefill - 2 >= least and passes(self._at(prefill - 2, decode + 1)):
            decode += 1
            prefill = self._fewest_prefill(decode, prefill - 2, least, prefill - 2)
        return self._at(prefill, decode)

    def _fewest_prefill(self, decode: int, guess: int, least: int, most: int) -> int:
        return self._smallest(lambda n: passes(self._at(n, decode)), guess, least, most)

    def _at(self, prefill: int, decode: int) -> Run:
        key = (prefill, decode)
        if key not in self._runs:
            what = f"{STATIC}, {prefill} prefill and {decode} decode"
            self._runs[key] = simulate(self._context, StaticPolicy(prefill, decode), what, self._progress)
        return self._runs[key]

    @staticmethod
    def _smallest(enough: Callable[[int], bool], guess: int, least: int, most: int) -> int:
        """Smallest number that is enough; ``most`` if none is."""
        found = smallest(enough, guess, least, most)
        return most if found is None else found


def smallest(enough: Callable[[int], bool], guess: int, least: int, most: int) -> int | None:
    """Smallest number in [least, most] that is enough, near a guess; None if none is."""
    if most < least:
        return None
    guess = max(least, min(most, guess))
    if enough(guess):
        while guess > least and enough(guess - 1):
            guess -= 1
        return guess
    low, high, step = guess, guess, 1
    while high < most:
        high = min(most, high + step)
        if enough(high):
            break
        low, step = high, 2 * step
    else:
        return None
    while low + 1 < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high
