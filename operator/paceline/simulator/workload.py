"""A trace as the simulator wants it: prefix blocks of one size, and any number of copies of it at once."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from copy import copy as same
from typing import Final

import numpy as np
from numpy.typing import NDArray

from paceline.simulator.request import NO_BLOCKS, SimRequest
from paceline.simulator.settings import BLOCK_TOKENS
from paceline.traces.record import Trace, TraceRequest

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

JITTER_SECONDS: Final = 5.0
"""Longest time by which a request of a further copy comes later than in the trace."""


class Workload:
    """Requests in order of arrival, made one by one as they are asked for: a million of them fit into memory.

    ``rate_scale`` copies of the trace are merged; a fraction is a copy that keeps each session with that probability.
    The first copy is the trace itself, the others are shifted by a little and have prefixes of their own, so shape and
    reuse stay as they are.
    """

    def __init__(self, trace: Trace, *, rate_scale: float = 1.0, seed: int = 0) -> None:
        """Raises ValueError for a trace without requests or a scale that isn't positive."""
        if not trace.requests:
            raise ValueError(f"{trace.name} has no requests")
        if not rate_scale > 0:
            raise ValueError(f"the rate scale must be above 0: {rate_scale}")
        self.name = trace.name
        self._prompts = [request.input_tokens for request in trace.requests]
        self._outputs = [request.output_tokens for request in trace.requests]
        self.block_size = _block_size(trace.requests)
        self._blocks, self._ids = _prefix_blocks(trace.requests, self.block_size)
        self.arrivals, self._copy, self._source = _merged(trace.requests, rate_scale, seed)

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def seconds(self) -> float:
        """When the last request arrives."""
        return float(self.arrivals[-1])

    def __iter__(self) -> Iterator[SimRequest]:
        prompts, outputs, blocks, ids = self._prompts, self._outputs, self._blocks, self._ids
        columns = zip(self.arrivals.tolist(), self._copy.tolist(), self._source.tolist(), strict=True)
        for number, (arrived, copy, index) in enumerate(columns):
            own = blocks[index]
            if copy and own:
                offset = copy * ids
                own = tuple([block + offset for block in own])
            yield SimRequest(number, arrived, prompts[index], outputs[index], own)

    def part(self, begin: float, end: float) -> Workload:
        """What arrives in [begin, end), as a workload that begins at 0. Raises ValueError where that is nothing."""
        low, high = (int(at) for at in np.searchsorted(self.arrivals, (begin, end)))
        if low == high:
            raise ValueError(f"{self.name} has no requests from {begin:g} to {end:g} s")
        part = same(self)
        part.arrivals = self.arrivals[low:high] - begin
        part._copy, part._source = self._copy[low:high], self._source[low:high]
        return part

    def sizes(self) -> tuple[FloatArray, FloatArray]:
        """(prompt tokens, output tokens) of every request, in order of arrival."""
        return np.array(self._prompts, dtype=float)[self._source], np.array(self._outputs, dtype=float)[self._source]


def _merged(requests: Sequence[TraceRequest], scale: float, seed: int) -> tuple[FloatArray, IntArray, IntArray]:
    """Arrival, copy and index in the trace of every request, sorted by arrival."""
    base = np.array([request.arrival_seconds for request in requests])
    rng = random.Random(f"{seed}/copies")  # noqa: S311 - reproducible, not secret
    times, copies, sources = [], [], []
    for copy in range(math.ceil(scale)):
        chosen = np.arange(len(base))
        if scale - copy < 1:
            kept: dict[object, bool] = {}
            keep = [
                kept.setdefault(request.session or index, rng.random() < scale - copy)
                for index, request in enumerate(requests)
            ]
            chosen = chosen[np.array(keep)]
        jitter = np.array([rng.uniform(0, JITTER_SECONDS) for _ in chosen]) if copy else 0.0
        times.append(base[chosen] + jitter)
        copies.append(np.full(len(chosen), copy))
        sources.append(chosen)
    arrivals = np.concatenate(times)
    order = np.argsort(arrivals, kind="stable")
    return arrivals[order], np.concatenate(copies)[order], np.concatenate(sources)[order]


def _block_size(requests: Sequence[TraceRequest]) -> int:
    """Tokens of a prefix block: whole blocks of the trace, close to ``BLOCK_TOKENS``."""
    sizes = {request.block_size for request in requests if request.blocks}
    if len(sizes) > 1:
        raise ValueError(f"a trace needs blocks of one size, not of {sorted(sizes)}")
    size = sizes.pop() if sizes else BLOCK_TOKENS
    return size * max(1, BLOCK_TOKENS // size)


def _prefix_blocks(requests: Sequence[TraceRequest], size: int) -> tuple[list[tuple[int, ...]], int]:
    """Ids of the full blocks of each prompt, numbered from 0, and how many ids there are.

    A block is named by all that comes before it too, so equal ids are equal prefixes.
    """
    names: dict[tuple[int, tuple[int, ...]], int] = {}
    result = []
    for request in requests:
        if not request.blocks:
            result.append(NO_BLOCKS)
            continue
        each = size // request.block_size
        parent = -1
        ids = []
        for index in range(request.input_tokens // size):
            part = request.blocks[index * each : (index + 1) * each]
            parent = names.setdefault((parent, part), len(names))
            ids.append(parent)
        result.append(tuple(ids))
    return result, len(names)
