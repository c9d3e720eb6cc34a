"""Traces as the simulator reads them: copies, and blocks of one size."""

from __future__ import annotations

import pytest

from paceline.simulator.workload import JITTER_SECONDS, Workload
from paceline.traces.record import TraceRequest
from tests.simulator.scenes import trace_of

ONE = TraceRequest(1.0, 1300, 10, (5, 6, 7), 512, "a")
SAME_PREFIX = TraceRequest(2.0, 1600, 20, (5, 6, 8, 9), 512, "a")
OTHER = TraceRequest(3.0, 600, 30, (1, 2), 512, "b")


def test_only_full_blocks_can_be_shared() -> None:
    first, second, third = Workload(trace_of(ONE, SAME_PREFIX, OTHER))
    assert [len(request.blocks) for request in (first, second, third)] == [2, 3, 1]
    assert first.blocks == second.blocks[:2]
    assert third.blocks[0] not in second.blocks


def test_equal_ids_after_different_ids_are_different_prefixes() -> None:
    first, second = Workload(trace_of(TraceRequest(0, 1024, 1, (1, 9), 512), TraceRequest(1, 1024, 1, (2, 9), 512)))
    assert first.blocks[1] != second.blocks[1]


def test_small_blocks_are_joined_to_large_ones() -> None:
    blocks = tuple(range(70))
    changed = (*blocks[:40], 999, *blocks[41:])
    workload = Workload(trace_of(TraceRequest(0, 70 * 16, 1, blocks, 16), TraceRequest(1, 70 * 16, 1, changed, 16)))
    first, second = workload
    assert workload.block_size == 512
    assert len(first.blocks) == 2
    assert first.blocks[0] == second.blocks[0]
    assert first.blocks[1] != second.blocks[1]


def test_copies_keep_the_shape_and_have_prefixes_of_their_own() -> None:
    workload = Workload(trace_of(ONE, SAME_PREFIX, OTHER), rate_scale=3, seed=1)
    requests = list(workload)
    assert len(workload) == len(requests) == 9
    assert [request.arrived for request in requests] == sorted(request.arrived for request in requests)
    heads = [request.blocks[0] for request in requests if request.output == 10]
    assert len(set(heads)) == 3
    for output, arrived in ((10, 1.0), (20, 2.0), (30, 3.0)):
        times = [request.arrived for request in requests if request.output == output]
        assert min(times) == arrived
        assert max(times) <= arrived + JITTER_SECONDS


def test_a_part_of_a_copy_keeps_whole_sessions() -> None:
    turns = [
        TraceRequest(float(turn), 600, 1, (number, number), 512, f"s{number}")
        for turn in (1, 2)
        for number in range(200)
    ]
    kept = [request.blocks[0] for request in Workload(trace_of(*turns), rate_scale=0.5)]
    assert 100 <= len(kept) <= 300
    assert all(kept.count(block) == 2 for block in kept)


def test_requests_of_which_no_prefix_is_known_share_nothing() -> None:
    (request,) = Workload(trace_of(TraceRequest(0, 5000, 1)))
    assert request.blocks == ()


@pytest.mark.parametrize(("requests", "scale"), [((), 1.0), ((ONE,), 0.0)])
def test_a_workload_of_nothing_is_refused(requests: tuple[TraceRequest, ...], scale: float) -> None:
    with pytest.raises(ValueError, match=r"no requests|rate scale"):
        Workload(trace_of(*requests), rate_scale=scale)


def test_a_part_begins_at_zero_and_keeps_what_its_requests_share() -> None:
    whole = Workload(trace_of(ONE, SAME_PREFIX, OTHER), rate_scale=2, seed=1)
    there = [request for request in whole if 1.5 <= request.arrived < 3.0]
    part = whole.part(1.5, 3.0)
    assert len(part) == len(there) > 0
    assert part.arrivals.tolist() == [request.arrived - 1.5 for request in there]
    assert [(one.number, one.prompt, one.blocks) for one in part] == [
        (number, one.prompt, one.blocks) for number, one in enumerate(there)
    ]
    assert len(whole) == 6, "it is as it was"
    with pytest.raises(ValueError, match="no requests from 50 to 60 s"):
        whole.part(50.0, 60.0)
