"""A change of role takes effect at once for what comes, and harms nothing that runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paceline.api.wire import Role
from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.report import policy_report
from paceline.simulator.simulation import Run, Simulation
from paceline.simulator.telemetry import Sample
from paceline.simulator.workload import Workload
from paceline.traces.record import TraceRequest
from tests.simulator.scenes import settings, trace_of

CHANGE_AT = 20.0


class ChangesOnce:
    """Gives one engine another role, and nothing else."""

    name = "changes-once"
    interval_seconds = CHANGE_AT

    def __init__(self, initial: Targets, number: int, role: Role) -> None:
        self.initial = initial
        self._number = number
        self._role = role

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        cluster.flip(cluster.pods[self._number], self._role)


def simulated(policy: ChangesOnce, requests: Sequence[TraceRequest]) -> Run:
    return Simulation(Workload(trace_of(*requests)), policy, settings()).run()


def streams(count: int, *, output: int) -> list[TraceRequest]:
    """Short prompts with long answers, so that both decode engines run streams when the role changes."""
    return [TraceRequest(number * 0.4, 1000, output) for number in range(count)]


def prompts(count: int, *, every: float, size: int = 15_000) -> list[TraceRequest]:
    """Prompts from just after the change on, more than one engine can compute in time."""
    return [TraceRequest(CHANGE_AT + 1.5 + number * every, size, 1) for number in range(count)]


def in_time(run: Run, chosen: Callable[[TraceRequest], bool], workload: Sequence[TraceRequest]) -> float:
    ttft = run.score.ttft[[chosen(request) for request in workload]]
    return float(np.mean(ttft <= settings().objective.ttft_seconds))


def test_a_decode_engine_that_becomes_a_prefill_engine_computes_prompts_while_its_streams_go_on() -> None:
    load = [*streams(40, output=3000), *prompts(20, every=0.7)]
    kept, changed = (
        simulated(ChangesOnce(Targets(1, 2), number, role), load)
        for number, role in ((0, Role.PREFILL), (2, Role.PREFILL))
    )
    shares = [in_time(run, lambda one: one.output_tokens == 1, load) for run in (kept, changed)]
    assert (kept.flips, changed.flips) == (0, 1)
    assert shares[1] > shares[0] + 0.2
    assert changed.score.completed == len(load)
    ends = [one.arrival_seconds + 2999 * itl for one, itl in zip(load[:40], changed.score.itl, strict=False)]
    assert np.mean(np.array(ends) > load[-1].arrival_seconds) > 0.5


def test_the_streams_of_an_engine_between_two_roles_keep_to_their_objective() -> None:
    load = [*streams(40, output=3000), *prompts(40, every=0.5)]
    run = simulated(ChangesOnce(Targets(1, 2), 2, Role.PREFILL), load)
    report = policy_report(run)
    assert report.lost == 0
    assert np.mean(run.score.itl[:40] <= settings().objective.itl_seconds * 1.02) > 0.95


def test_a_prefill_engine_that_becomes_a_decode_engine_gets_streams_at_once_and_computes_what_it_has() -> None:
    load = [TraceRequest(CHANGE_AT - 0.1 + number / 1000, 60_000, 200) for number in range(4)]
    load += [TraceRequest(CHANGE_AT + 2 + number * 0.5, 1000, 400) for number in range(20)]
    run = simulated(ChangesOnce(Targets(2, 1), 1, Role.DECODE), load)
    assert run.score.completed == len(load)
    (change,) = (sample for sample in run.samples if sample.at == CHANGE_AT + 5)
    assert (change.prefill.ready, change.decode.ready) == (1, 2)


def test_who_can_still_be_in_time_goes_first_whichever_engine_is_free() -> None:
    hopeless = [TraceRequest(0.001 * number, 60_000, 1) for number in range(8)]
    urgent = [TraceRequest(0.5 + 0.5 * number, 2000, 1) for number in range(40)]
    run = simulated(ChangesOnce(Targets(3, 1), 0, Role.PREFILL), [*hopeless, *urgent])
    first = run.score.ttft[len(hopeless) :]
    alone = settings().profile.prefill_seconds(60_000)
    # All engines compute hopeless prompts at first; from then on the urgent ones wait for none of them.
    late = np.array([request.arrival_seconds for request in urgent]) > 2 * alone
    assert late.any()
    assert (first[late] <= settings().objective.ttft_seconds).mean() > 0.5
