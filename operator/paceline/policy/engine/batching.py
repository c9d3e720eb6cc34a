"""Continuous batching of one engine, without a clock: who is in the batch, what a step computes, how long it takes.

It follows vLLM's scheduler in what shows from outside: decodes first, prompts in chunks under a token budget, blocks
for a whole prompt reserved at admission, the newest preempted and recomputed when blocks run out. The emulator drives
it in real time with :meth:`EngineModel.step`; the simulator jumps over decode-only stretches with
:meth:`EngineModel.advance`.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import heapify, heappop, heappush

from paceline.policy.engine.blockcache import BlockCache
from paceline.policy.engine.sequence import Fetch, Sequence, Source, State, Step
from paceline.policy.scaling.perfmodel import EngineProfile


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.priority, sequence.order


class EngineModel:
    """One engine: a block cache, a queue and a batch. Deterministic; the same calls give the same steps."""

    def __init__(
        self,
        profile: EngineProfile,
        *,
        block_size: int = 16,
        kv_blocks: int | None = None,
        host_blocks: int | None = None,
        max_seqs: int | None = None,
        max_batched_tokens: int | None = None,
        prefix_caching: bool = True,
        record_events: bool = False,
    ) -> None:
        """Whatever is None comes from the profile. Raises ValueError for a batch that could never hold a sequence."""
        self.profile = profile
        self.block_size = block_size
        self.max_seqs = max_seqs or profile.max_seqs
        self.max_batched_tokens = max_batched_tokens or profile.max_batched_tokens
        if self.max_batched_tokens < self.max_seqs:
            raise ValueError(
                f"max_batched_tokens ({self.max_batched_tokens}) is less than max_seqs ({self.max_seqs}): "
                "a step could not decode the whole batch"
            )
        if host_blocks is None:
            host_blocks = profile.host_tier_tokens // block_size
        if kv_blocks is None:
            kv_blocks = profile.kv_capacity_tokens // block_size
        self.prefix_caching = prefix_caching
        self.cache = BlockCache(
            kv_blocks, host_capacity=host_blocks if prefix_caching else 0, record_events=record_events
        )
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._running: list[Sequence] = []
        """Sorted by rank: the last is the first to be preempted."""
        self._ready: deque[Sequence] = deque()
        self._fetching = 0
        self._held = 0
        self._orders = 0
        self._blocked: tuple[Sequence, int] | None = None
        """Head of the queue that did not fit, and the free blocks it needs: no use to look again before."""

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._waiting)

    @property
    def deferred(self) -> int:
        """Sequences that wait for a fetch, or for a place after one."""
        return self._fetching + len(self._ready)

    @property
    def held(self) -> int:
        """Finished sequences whose blocks another engine may still read."""
        return self._held

    @property
    def usage(self) -> float:
        """Share of KV blocks in use, 0 to 1."""
        return self.cache.held_blocks / self.cache.capacity

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises ValueError if it could not be held even alone."""
        longest = sequence.prompt_tokens + sequence.output_limit
        if longest > self.cache.capacity * self.block_size:
            raise ValueError(
                f"{longest} tokens don't fit into {self.cache.capacity} blocks of {self.block_size} tokens"
            )
        sequence.order = self._orders
        self._orders += 1
        heappush(self._waiting, (*_rank(sequence), sequence))

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence wherever it is; nothing happens if it has finished and holds nothing."""
        match sequence.state:
            case State.WAITING:
                self._waiting.remove((*_rank(sequence), sequence))
                heapify(self._waiting)
            case State.FETCHING:
                self._fetching -= 1
            case State.READY:
                self._ready.remove(sequence)
            case State.RUNNING:
                self._running.remove(sequence)
            case State.HELD:
                self._held -= 1
        self._drop(sequence)

    def finish(self, sequence: Sequence) -> None:
        """A running sequence has ended before its output limit, at an end-of-text token or a stop string."""
        if sequence.state is State.RUNNING:
            self._running.remove(sequence)
            self._end(sequence)

    def release(self, sequence: Sequence) -> None:
        """Another engine has read (or will never read) the blocks of a held sequence."""
        if sequence.state is State.HELD:
            self._held -= 1
            self._drop(sequence)

    def arrived(self, sequence: Sequence) -> None:
        """A fetch is complete. Nothing happens if the sequence was aborted meanwhile."""
        if sequence.state is not State.FETCHING:
            return
        reached = sequence.computed + sequence.host_tokens + sequence.remote_tokens
        # The last prompt token is computed here even so: its output is what the first token is sampled from.
        sequence.computed = min(reached, sequence.total - 1)
        self._seal(sequence)
        self._make_ready(sequence)

    def failed(self, sequence: Sequence) -> None:
        """A fetch came to nothing: the sequence computes those tokens itself."""
        if sequence.state is not State.FETCHING:
            return
        sequence.host_tokens = sequence.remote_tokens = 0
        self._make_ready(sequence)

    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks; False, and nothing done, while any is in use."""
        return self.cache.clear()

    def step(self) -> Step | None:
        """Do one step; None if there is nothing to do (though fetches may be under way)."""
        step = Step()
        decodes, context, prefills = self._decode(step)
        budget = self.max_batched_tokens - decodes
        work = 0.0
        for sequence in prefills:
            chunk, seconds = self._prefill(sequence, budget, step)
            budget -= chunk
            work += seconds
        while budget > 0 and len(self._running) < self.max_seqs:
            admitted = self._admit(step)
            if admitted is None:
                break
            chunk, seconds = self._prefill(admitted, budget, step)
            budget -= chunk
            work += seconds
        for sequence in step.finished:
            self._running.remove(sequence)
            self._end(sequence)
        if decodes or step.prefill_tokens:
            step.duration = self.profile.mixed_seconds(work, decodes, context)
        elif not step.fetches and not step.preempted:
            return None
        return step

    def steps_until_change(self) -> int:
        """Decode steps that are certain to need no decision: no prompt, no admission, no preemption, no early end.

        The last of them may end sequences. 0 when the next step has to be made by :meth:`step`.
        """
        if not self._running or any(s.total - s.computed != 1 for s in self._running):
            return 0
        if len(self._running) < self.max_seqs and (self._ready or (self._waiting and not self._is_blocked())):
            return 0
        most = min(s.remaining for s in self._running)
        if self._blocks_for(most) <= self.cache.free_blocks:
            return most
        fits, too_many = 0, most
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self._blocks_for(middle) <= self.cache.free_blocks:
                fits = middle
            else:
                too_many = middle
        return fits

    def advance(self, steps: int) -> Step:
        """Do ``steps`` decode steps at once, at most :meth:`steps_until_change`; the same as that many :meth:`step`.

        Only for drivers whose sequences end at their output limit: the contents of the new tokens must be known.
        """
        if not 1 <= steps <= self.steps_until_change():
            raise ValueError(f"can't advance {steps} steps, at most {self.steps_until_change()}")
        result = Step(steps=steps)
        context = sum(s.computed + 1 for s in self._running)
        result.duration = self.profile.decode_run_seconds(steps, len(self._running), context)
        before = [sequence.computed for sequence in self._running]
        for step, index, fills in self._block_boundaries(steps):
            sequence = self._running[index]
            sequence.computed = before[index] + step
            if fills:
                self._seal(sequence)
            else:
                sequence.blocks += self.cache.allocate(1)
        for sequence, computed in zip(self._running, before, strict=True):
            sequence.computed = computed + steps
            sequence.total += steps
            result.emitted.append(sequence)
            if not sequence.remaining:
                result.finished.append(sequence)
        for sequence in result.finished:
            self._running.remove(sequence)
            self._end(sequence)
        return result

    def _decode(self, step: Step) -> tuple[int, int, list[Sequence]]:
        """Decode every sequence whose prompt is done. Returns (how many, their context in tokens, the others)."""
        size, running = self.block_size, self._running
        prefills: list[Sequence] = []
        decodes = context = index = 0
        while index < len(running):
            sequence = running[index]
            computed = sequence.computed + 1
            if sequence.total != computed:
                prefills.append(sequence)
            else:
                if len(sequence.blocks) * size < computed and not self._grow(sequence, step):
                    continue
                sequence.computed = computed
                if computed % size == 0:
                    self._seal(sequence)
                decodes += 1
                context += computed
                self._emit(sequence, step)
            index += 1
        return decodes, context, prefills

    def _grow(self, sequence: Sequence, step: Step) -> bool:
        """One more block, preempting the newest if need be; False if that was the sequence itself."""
        while not self.cache.free_blocks:
            victim = self._running.pop()
            self._preempt(victim)
            step.preempted.append(victim)
            if victim is sequence:
                return False
        sequence.blocks += self.cache.allocate(1)
        return True

    def _prefill(self, sequence: Sequence, budget: int, step: Step) -> tuple[int, float]:
        """Compute the next chunk of a prompt. Returns (its tokens, its seconds)."""
        if budget <= 0:
            return 0, 0.0
        chunk = min(sequence.total - sequence.computed, budget)
        seconds = self.profile.prefill_work(chunk, sequence.computed)
        sequence.computed += chunk
        step.prefill_tokens += chunk
        self._seal(sequence)
        if sequence.computed == sequence.total:
            self._emit(sequence, step)
        return chunk, seconds

    def _admit(self, step: Step) -> Sequence | None:
        """Bring the next sequence into the batch, or start fetches until one can come in."""
        if self._ready:
            sequence = self._ready.popleft()
            self._run(sequence, step)
            return sequence
        while self._waiting and not self._is_blocked():
            sequence = self._waiting[0][2]
            if not self._reserve(sequence):
                return None
            heappop(self._waiting)
            tokens = sequence.host_tokens + sequence.remote_tokens
            if not tokens or sequence.preemptions:
                self._run(sequence, step)
                return sequence
            source = Source.REMOTE if sequence.remote_tokens else Source.HOST
            cost = self.profile.transfer_seconds if sequence.remote else self.profile.host_load_seconds
            sequence.state = State.FETCHING
            self._fetching += 1
            step.fetches.append(Fetch(sequence, source, tokens, cost(tokens)))
        return None

    def _reserve(self, sequence: Sequence) -> bool:
        """Take the cached prefix and blocks for the rest of what is known; False if there aren't enough."""
        size = self.block_size
        needed = -(-sequence.total // size)
        limit = (sequence.total - 1) // size if self.prefix_caching else 0
        hashes = sequence.content.hashes(limit) if limit else ()
        matched = self.cache.match(hashes, limit)
        free_needed = needed - matched + self.cache.idle_among(hashes, matched)
        if free_needed > self.cache.free_blocks:
            self._blocked = (sequence, free_needed)
            return False
        sequence.blocks = self.cache.take(hashes, matched)
        sequence.blocks += self.cache.allocate(needed - matched)
        sequence.computed = matched * size
        sequence.sealed = matched
        if not sequence.preemptions:
            sequence.cached_tokens = matched * size
            if sequence.remote:
                sequence.remote_tokens = sequence.prompt_tokens - matched * size
            else:
                sequence.host_tokens = self.cache.match_host(hashes, matched, limit) * size
        return True

    def _is_blocked(self) -> bool:
        """Whether the head of the queue is known not to fit yet."""
        if self._blocked is None or self._blocked[0] is not self._waiting[0][2]:
            return False
        return self.cache.free_blocks < self._blocked[1]

    def _run(self, sequence: Sequence, step: Step) -> None:
        sequence.state = State.RUNNING
        insort(self._running, sequence, key=_rank)
        step.admitted.append(sequence)

    def _make_ready(self, sequence: Sequence) -> None:
        self._fetching -= 1
        sequence.state = State.READY
        self._ready.append(sequence)

    def _emit(self, sequence: Sequence, step: Step) -> None:
        sequence.total += 1
        step.emitted.append(sequence)
        if not sequence.remaining:
            step.finished.append(sequence)

    def _seal(self, sequence: Sequence) -> None:
        """Make the blocks that became full reusable."""
        full = sequence.computed // self.block_size
        first = sequence.sealed
        if full <= first or not self.prefix_caching:
            return
        hashes = sequence.content.hashes(full)
        self.cache.seal(
            sequence.blocks[first:full],
            hashes[first:full],
            parent=hashes[first - 1] if first else None,
            content=sequence.content,
            first=first,
        )
        sequence.sealed = full

    def _preempt(self, sequence: Sequence) -> None:
        self.cache.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.sealed = 0
        sequence.preemptions += 1
        sequence.state = State.WAITING
        heappush(self._waiting, (*_rank(sequence), sequence))

    def _end(self, sequence: Sequence) -> None:
        if sequence.hold:
            sequence.state = State.HELD
            self._held += 1
        else:
            self._drop(sequence)

    def _drop(self, sequence: Sequence) -> None:
        self.cache.release(sequence.blocks)
        sequence.blocks = []
        sequence.state = State.FINISHED

    def _block_boundaries(self, steps: int) -> list[tuple[int, int, bool]]:
        """When the batch needs a block (False) and fills one (True), as (step, place in the batch, which), in order.

        What is evicted and who names a content depends on this order, so ``advance`` keeps to that of single steps.
        """
        size = self.block_size
        boundaries = []
        for index, sequence in enumerate(self._running):
            computed = sequence.computed
            for block in range(computed // size, (computed + steps - 1) // size + 1):
                if block >= len(sequence.blocks):
                    boundaries.append((block * size + 1 - computed, index, False))
                if (filled := (block + 1) * size - computed) <= steps:
                    boundaries.append((filled, index, True))
        boundaries.sort()
        return boundaries

    def _blocks_for(self, steps: int) -> int:
        """New blocks that ``steps`` decode steps of the batch need."""
        size = self.block_size
        return sum(max(0, -(-(s.computed + steps) // size) - len(s.blocks)) for s in self._running)
