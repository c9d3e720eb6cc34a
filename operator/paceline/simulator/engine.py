"""One simulated engine: continuous batching in closed form between events, so that a decode step costs nothing.

Times are those of :class:`paceline.policy.scaling.perfmodel.EngineProfile`. While only decoding goes on, every sequence
gets one token a step, so a sequence that joins at step s with o tokens to go ends at step s + o: the batch is three
numbers (sequences, context, step) and a heap of ends, and the time of any number of steps is a quadratic. Steps with
prompts in them are simulated one by one: there are a few to a prompt.

It makes the same steps as :class:`paceline.policy.engine.batching.EngineModel`, which the emulator runs and which
keeps every single block; a test compares the two. What it leaves out: memory is counted in tokens, not in blocks.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import Final

from paceline.api.wire import Role
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.simulator.cache import PrefixCache
from paceline.simulator.chunks import PromptQueue
from paceline.simulator.events import EventLoop
from paceline.simulator.owner import EngineOwner
from paceline.simulator.request import SimRequest

_NEVER: Final = 1 << 62


class SimEngine:
    """One engine that is ready. Only events and its own methods change it."""

    __slots__ = (
        "_arriving", "_completing", "_epoch", "_finishing", "_in_step", "_joiners", "_loop", "_owner", "_preempted",
        "_prompts", "_queue", "_run_end", "_running", "_serial", "_step_base", "_step_context", "_step_sequence",
        "batch", "budget", "cache", "capacity", "clock", "context", "fetching", "held", "incoming", "least_free",
        "leaving", "max_seqs", "number", "preemptions", "profile", "role", "step",
    )  # fmt: skip

    def __init__(
        self, number: int, profile: EngineProfile, role: Role, cache: PrefixCache, owner: EngineOwner, loop: EventLoop
    ) -> None:
        self.number = number
        self.profile = profile
        self.role = role
        """What it is given. It finishes what it had of another role, in the same steps."""
        self.leaving = False
        """Whether it is given nothing any more."""
        self.cache = cache
        self.capacity = profile.kv_capacity_tokens
        self.max_seqs = profile.max_seqs
        self.budget = profile.max_batched_tokens
        self._step_base = profile.step_base
        self._step_sequence = profile.step_sequence
        self._step_context = profile.step_context
        self._owner = owner
        self._loop = loop
        self.clock = loop.now
        """Time at which the batch was, or will be, as the fields below say: always the end of a step."""
        self.step = 0
        self.batch = 0
        """Sequences that decode."""
        self.context = 0
        """Tokens that the next decode step attends to."""
        self.held = 0
        """Prompt tokens in memory that are being computed, or wait to be transferred."""
        self.incoming = 0
        """Prompt tokens that are being transferred here."""
        self.fetching = 0
        """Prompts whose cached blocks come from a lower tier at the moment."""
        self.least_free = self.capacity
        """Least memory that was free of sequences since the cache was last adjusted to it."""
        self.preemptions = 0
        self._running: dict[SimRequest, None] = {}
        """In order of joining: the last is the first to be preempted."""
        self._finishing: list[tuple[int, int, SimRequest]] = []
        self._serial = 0
        self._joiners: list[SimRequest] = []
        """Get their first token at the end of the next step."""
        self._arriving: list[SimRequest] = []
        """Join at the end of the current step."""
        self._preempted: deque[SimRequest] = deque()
        self._prompts = PromptQueue(profile)
        self._completing: list[SimRequest] = []
        """Prompts that the current step completes."""
        self._queue: deque[SimRequest] = deque()
        """Prompts that it was given and has not begun."""
        self._in_step = False
        """Whether the next event is the end of a step; else it is that of a run of decode steps, or there is none."""
        self._run_end = 0
        """Step at which the current run of decode steps ends."""
        self._epoch = 0
        """Events of earlier epochs are stale."""

    @property
    def used(self) -> int:
        """Tokens of KV cache that are taken by sequences."""
        return self.context + self.incoming + self.held

    @property
    def most_used(self) -> int:
        """At least :attr:`used` of the present, without a look at the clock."""
        return self.used + self.batch * max(0, self._run_end - self.step)

    @property
    def running(self) -> int:
        """Sequences that decode, or are about to."""
        return self.batch + len(self._arriving)

    @property
    def waiting(self) -> int:
        """Prompts in the engine that are not computed yet, and sequences that were preempted."""
        return len(self._prompts) + self.fetching + len(self._preempted) + len(self._queue)

    @property
    def queued_seconds(self) -> float:
        """Prefill work of the prompts that it has not begun."""
        return math.fsum(request.service for request in self._queue)

    @property
    def quiet(self) -> bool:
        """Whether it has nothing to do, though other engines may still fetch blocks from it."""
        return not (self.running or self.waiting or self.incoming or self._in_step)

    @property
    def empty(self) -> bool:
        """Whether it has nothing to do and nothing that another engine waits for."""
        return self.quiet and not self.held

    def expect(self, request: SimRequest) -> float:
        """Reserve memory for a request whose blocks it is to fetch. Returns when it begins to: between two steps."""
        self.incoming += request.prompt
        self.settle()
        return self._present()

    def join(self, request: SimRequest) -> None:
        """The blocks of an expected request are here: it decodes from the next step on."""
        self._arriving.append(request)
        if not self._in_step:
            self._settle(self._loop.now)
            self._admit_arrivals()
            self._plan_run()

    def wake(self) -> None:
        """There may be a prompt to compute, or memory to compute it in."""
        if not self._in_step:
            if self.batch:
                # At the end of the current step: what arrives until then comes in together.
                self._settle(self._loop.now)
                self._in_step = True
                self._epoch += 1
                self._loop.at(self.clock, self._end_step, self._epoch)
            else:
                self.clock = max(self.clock, self._loop.now)
                self._advance()

    def release(self, request: SimRequest) -> None:
        """The blocks of a prompt have been transferred."""
        self.held -= request.prompt
        if self._queue:
            self.wake()
        elif self.leaving and self.empty:
            self._owner.emptied(self)

    def give(self, request: SimRequest) -> None:
        """Compute a prompt, after those that were given before it."""
        self._queue.append(request)
        self.wake()

    def cache_room(self) -> int:
        """Tokens of the accelerator's memory that sequences have left to cached blocks since this was last asked."""
        room = min(self.least_free, self.capacity - self.context - self.incoming)
        self.least_free = self.capacity
        return max(0, room)

    def settle(self) -> None:
        """Bring ``context`` and ``batch`` up to the present."""
        if not self._in_step:
            self._settle(self._loop.now)

    # -- decoding in closed form ------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Do the decode steps that have begun by ``now``, but none past the end of the run."""
        missing = now - self.clock
        if missing <= 0:
            return
        if not self.batch:
            self.clock = now
            return
        # Steps grow by as much each: their number solves a quadratic.
        half = self._step_context * self.batch / 2
        linear = self._step_base + self._step_sequence * self.batch + self._step_context * self.context - half
        steps = math.ceil(2 * missing / (linear + math.sqrt(linear * linear + 4 * half * missing)) - 1e-9)
        self._do_steps(min(steps, self._run_end - self.step))

    def _do_steps(self, steps: int) -> None:
        if steps <= 0:
            return
        batch = self.batch
        # EngineProfile.decode_run_seconds, spelt out: it is most of what engines do.
        first = self._step_base + self._step_sequence * batch + self._step_context * self.context
        if self._joiners:
            for request in self._joiners:
                request.first_token = self.clock + first
            self._joiners.clear()
        self.clock += steps * (first + self._step_context * batch * (steps - 1) / 2)
        self.step += steps
        self.context += batch * steps

    def _enter(self, request: SimRequest, context: int, steps: int) -> None:
        """Put a sequence into the batch: it attends to ``context`` tokens next and has ``steps`` tokens to go."""
        self.batch += 1
        self.context += context
        self._serial += 1
        request.finish_step = self.step + steps
        heappush(self._finishing, (request.finish_step, self._serial, request))
        self._running[request] = None
        if request.first_token < 0:
            self._joiners.append(request)

    def _plan_run(self) -> None:
        """Decode until a sequence ends or memory is full."""
        free = self.capacity - self.context - self.incoming - self.held
        while free < self.batch and self.batch > 1:
            self._preempt()
            free = self.capacity - self.used
        self.least_free = min(self.least_free, free)
        batch = self.batch
        steps = self._first_end() - self.step
        if free < steps * batch:
            steps = max(1, free // batch)
        self._run_end = self.step + steps
        self._epoch = epoch = self._epoch + 1
        first = self._step_base + self._step_sequence * batch + self._step_context * self.context
        until = self.clock + steps * (first + self._step_context * batch * (steps - 1) / 2)
        self._loop.at(until, self._end_run, epoch)

    def _first_end(self) -> int:
        finishing = self._finishing
        while finishing:
            step, _, request = finishing[0]
            if request.finish_step == step:
                return step
            heappop(finishing)
        return _NEVER

    def _end_run(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self._do_steps(self._run_end - self.step)
        # Whoever hears of an end may give it a prompt: that begins with the next step, like any other.
        self._in_step = True
        self._finish()
        self._in_step = False
        self._advance()

    def _finish(self) -> None:
        """Let go of the sequences that have their last token."""
        finishing, step, running = self._finishing, self.step, self._running
        while finishing and finishing[0][0] <= step:
            end, _, request = heappop(finishing)
            if end != request.finish_step or request not in running:
                continue
            del running[request]
            self.batch -= 1
            self.context -= request.prompt + request.output
            self._owner.finished(self, request, self.clock)

    def _preempt(self) -> None:
        """Throw the newest sequence out of memory; it is computed again when there is room."""
        request, _ = self._running.popitem()
        self.batch -= 1
        to_go = request.finish_step - self.step
        size = request.prompt + request.output - to_go
        self.context -= size
        request.finish_step = -1
        request.local = True
        request.done = 0
        request.left = size
        if request.first_token < 0:
            self._joiners.remove(request)
        self._preempted.appendleft(request)
        self.preemptions += 1

    # -- steps with prompts -----------------------------------------------------------------------------------------

    def _end_step(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self._finish()
        self._admit_arrivals()
        self._in_step = False
        self._advance()

    def _admit_arrivals(self) -> None:
        for request in self._arriving:
            self.incoming -= request.prompt
            self._enter(request, request.prompt, request.output)
        self._arriving.clear()

    def _advance(self) -> None:
        """At the end of a step: do what is next."""
        self._take_prompts()
        if self._prompts.tokens:
            self._begin_step()
        elif self.batch:
            self._plan_run()
        else:
            self._epoch += 1
            if self.leaving and self.quiet:
                self._owner.emptied(self)

    def _take_prompts(self) -> None:
        while self._preempted and (not self.batch or self.used + self._preempted[0].left + self.batch < self.capacity):
            preempted = self._preempted.popleft()
            self.held += preempted.left
            self._prompts.add(preempted)
        if self._preempted:
            return
        prompts, queue = self._prompts, self._queue
        while (
            queue and prompts.tokens < self.budget and len(prompts) + self.batch + len(self._arriving) < self.max_seqs
        ):
            request = queue[0]
            if self.used + request.prompt > self.capacity and self.used:
                return
            queue.popleft()
            self._owner.begun(self, request)
            self.held += request.prompt
            if request.load_seconds > 0:
                self.fetching += 1
                self._loop.at(self._present() + request.load_seconds, self._fetched, request)
            else:
                prompts.add(request)

    def _fetched(self, request: SimRequest) -> None:
        self.fetching -= 1
        self._prompts.add(request)
        self.wake()

    def _present(self) -> float:
        """When a step could begin at the earliest."""
        return max(self.clock, self._loop.now)

    def _begin_step(self) -> None:
        """One step with as much of the prompts as fits into it."""
        work, singles, context, self._completing = self._prompts.take(self.budget - self.batch)
        duration = self.profile.mixed_seconds(work, self.batch + singles, self.context + context)
        self._in_step = True
        self._epoch += 1
        self._loop.at(self.clock + duration, self._end_mixed, self._epoch)

    def _end_mixed(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self.clock = self._loop.now
        if self.batch:
            for request in self._joiners:
                request.first_token = self.clock
            self._joiners.clear()
            self.step += 1
            self.context += self.batch
            self._finish()
        completed, self._completing = self._completing, []
        for request in completed:
            self._complete(request)
        self._admit_arrivals()
        self._in_step = False
        self._advance()

    def _complete(self, request: SimRequest) -> None:
        """A prompt is computed: go on here, or let another engine fetch it."""
        self._owner.computed(self, request)
        if not request.local:
            return
        known = request.done
        self.held -= known
        # The step that ends a prompt, or its recomputation, makes a token.
        to_go = request.prompt + request.output - known - 1
        if request.first_token < 0:
            request.first_token = self.clock
        if to_go:
            self._enter(request, known + 1, to_go)
        else:
            self._owner.finished(self, request, self.clock)
