"""The engine loop: lets modelled time pass in real time and hands out tokens.

One task does all steps. A step is computed when it begins and its tokens are handed out at its end, an absolute
deadline, so that a timer that fires late delays nothing after it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from paceline.policy.engine.batching import EngineModel
from paceline.policy.engine.sequence import Fetch, Sequence, Source, State, Step
from paceline_worker.emulator.events import Publisher
from paceline_worker.emulator.faults import Faults
from paceline_worker.emulator.generation import Generation
from paceline_worker.emulator.metrics import Metrics
from paceline_worker.emulator.options import Options
from paceline_worker.emulator.transfer import BlockSource, Location, TransferError, discard, fetch

log = logging.getLogger(__name__)

MOST_LAG_SECONDS: Final = 0.25
"""Further behind its deadlines than this, the loop gives up catching up and counts the difference."""


class EmulatedEngine:
    """An engine model that runs in real time, with its cache events, transfers and metrics."""

    def __init__(
        self,
        options: Options,
        *,
        engine_id: str,
        metrics: Metrics,
        faults: Faults,
        publisher: Publisher | None,
        source: BlockSource | None,
    ) -> None:
        self.options = options
        self.engine_id = engine_id
        self.metrics = metrics
        self.faults = faults
        self.model = EngineModel(
            options.profile,
            block_size=options.block_size,
            kv_blocks=options.kv_blocks,
            host_blocks=options.host_blocks,
            max_seqs=options.max_seqs,
            max_batched_tokens=options.max_batched_tokens,
            prefix_caching=options.prefix_caching,
            record_events=publisher is not None,
        )
        self._publisher = publisher
        self._source = source
        self._wake = asyncio.Event()
        self._busy_until: float | None = None
        """Deadline of the last step while there is no pause between steps."""
        self._fetching: dict[Sequence, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, generation: Generation) -> None:
        """Queue a generation; its sink gets the tokens."""
        generation.arrived_at = time.monotonic()
        self.model.submit(generation.sequence)
        self._wake.set()

    def abort(self, generation: Generation) -> None:
        """The client is gone: free everything that the generation has."""
        sequence = generation.sequence
        if sequence.state is State.FINISHED:
            return
        if sequence.remote and not generation.output:
            self._give_up_fetch(generation)
        if sequence.state is not State.HELD:
            self.metrics.finished["abort"] += 1
        self.model.abort(sequence)
        self._wake.set()

    def reset_prefix_cache(self) -> bool:
        """Forget cached blocks; False while any is in use."""
        done = self.model.reset_prefix_cache()
        self._publish()
        return done

    def sizes(self) -> dict[str, float]:
        """How large everything is that grows, by metric name."""
        return {
            "held_requests": self.model.held,
            "cached_blocks": self.model.cache.cached_blocks,
            "host_blocks": self.model.cache.host_blocks,
            "replay_bytes": 0 if self._publisher is None else self._publisher.kept_bytes,
        }

    def hold(self, generation: Generation, request: str) -> dict[str, Any] | None:
        """Keep the blocks of a finished prefill for another engine. Returns the ``kv_transfer_params`` to answer."""
        sequence = generation.sequence
        if sequence.state is not State.HELD:
            return None
        if self._source is None or self.options.side_channel is None:
            raise AssertionError("a sequence is held although no other engine can fetch its blocks")
        blocks = list(sequence.blocks)
        self._source.hold(
            request, state=generation.prompt_state(), tokens=len(generation.prompt), free=self._releaser(sequence)
        )
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [blocks],
            "remote_engine_id": self.engine_id,
            "remote_request_id": request,
            "remote_host": self.options.side_channel[0],
            "remote_port": self._source.port,
            "tp_size": self.options.profile.tensor_parallel,
            "dcp_size": 1,
            "pp_size": 1,
            "remote_num_tokens": len(generation.prompt),
            "remote_blocks_expiry_time": None,
            "transfer_mode": "pull",
        }

    async def run(self) -> None:
        """Do steps for ever. Cancel to stop."""
        try:
            while True:
                await self.faults.wait_thawed()
                step = self.model.step()
                if step is None:
                    self._busy_until = None
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                self._note_admissions(step)
                for started in step.fetches:
                    self._start_fetch(started)
                if step.duration:
                    await self._pass(step.duration * self.faults.now.slow / self.options.speed)
                    await self.faults.wait_thawed()
                    self._deliver(step)
                self._publish()
        finally:
            for task in (*self._fetching.values(), *self._tasks):
                task.cancel()
            await asyncio.gather(*self._fetching.values(), *self._tasks, return_exceptions=True)

    async def _pass(self, seconds: float) -> None:
        """Wait for the end of a step that began when the one before ended."""
        now = time.monotonic()
        begin = now if self._busy_until is None else self._busy_until
        behind = now - begin
        if behind > MOST_LAG_SECONDS:
            self.metrics.lag_seconds += behind
            begin = now
        self._busy_until = begin + seconds
        # Even when late: connections need their turn.
        await asyncio.sleep(max(0.0, self._busy_until - now))

    def _deliver(self, step: Step) -> None:
        now = time.monotonic()
        same_gap, same_count = 0.0, 0
        metrics, faults = self.metrics, self.faults
        said = 0
        for sequence in step.emitted:
            generation = sequence.content
            if not isinstance(generation, Generation):
                raise TypeError("the emulator runs only its own sequences")
            if sequence.state is State.FINISHED and sequence.remaining:
                continue  # aborted while the step was under way
            if not generation.output:
                generation.first_token_at = now
                self._note_first_token(generation)
            else:
                gap = now - generation.last_token_at
                if gap != same_gap:
                    if same_count:
                        metrics.inter_token.observe(same_gap, same_count)
                    same_gap, same_count = gap, 0
                same_count += 1
            generation.last_token_at = now
            generation.say(faults.says(len(generation.output)), endless=faults.now.endless)
            said += 1
            if generation.finish_reason is not None:
                self.model.finish(sequence)
                self._note_finished(generation)
            faults.count_token()
        if same_count:
            metrics.inter_token.observe(same_gap, same_count)
        metrics.generation_tokens += said
        metrics.preemptions += len(step.preempted)
        metrics.iteration_tokens.observe(step.prefill_tokens + len(step.emitted))

    def _publish(self) -> None:
        if self._publisher is None:
            return
        events = self.model.cache.drain_events()
        if events:
            self._publisher.publish(events, time.time())

    def _start_fetch(self, started: Fetch) -> None:
        generation = started.sequence.content
        if not isinstance(generation, Generation):
            raise TypeError("the emulator runs only its own sequences")
        task = asyncio.create_task(self._fetch(started, generation), name="kv fetch")
        self._fetching[started.sequence] = task
        task.add_done_callback(lambda _: self._fetching.pop(started.sequence, None))

    async def _fetch(self, started: Fetch, generation: Generation) -> None:
        sequence = started.sequence
        seconds = started.seconds * self.faults.now.slow / self.options.speed
        begin = time.monotonic()
        try:
            if started.source is Source.HOST:
                await asyncio.sleep(seconds)
            else:
                location = self._location(generation)
                generation.remote_state = await fetch(location, tokens=len(generation.prompt), seconds=seconds)
                self.metrics.transfer_time.observe(time.monotonic() - begin)
                self.metrics.transfer_bytes.observe(started.tokens * self.options.profile.kv_bytes_per_token)
        except TransferError as error:
            log.warning("KV blocks could not be fetched, the prompt is computed here: %s", error)
            self.metrics.failed_transfers += 1
            self.model.failed(sequence)
        else:
            self.model.arrived(sequence)
        self._wake.set()

    def _location(self, generation: Generation) -> Location:
        if self.faults.now.drop_transfers:
            raise TransferError("transfers are dropped on request")
        try:
            return msgspec.convert(generation.plan.transfer, Location)
        except msgspec.ValidationError as error:
            raise TransferError(f"kv_transfer_params are not usable: {error}") from None

    def _give_up_fetch(self, generation: Generation) -> None:
        task = self._fetching.get(generation.sequence)
        if task is not None:
            task.cancel()
        if generation.remote_state is not None:
            return
        try:
            location = self._location(generation)
        except TransferError:
            return
        background = asyncio.create_task(discard(location), name="kv discard")
        self._tasks.add(background)
        background.add_done_callback(self._tasks.discard)

    def _releaser(self, sequence: Sequence) -> Callable[[], None]:
        def release() -> None:
            self.model.release(sequence)
            self._wake.set()

        return release

    def _note_admissions(self, step: Step) -> None:
        now = time.monotonic()
        for sequence in step.admitted:
            generation = sequence.content
            if sequence.preemptions or not isinstance(generation, Generation):
                continue
            generation.scheduled_at = now
            metrics = self.metrics
            metrics.cache_queries += sequence.prompt_tokens
            metrics.cache_hits += sequence.cached_tokens
            metrics.cached_by_tier["device"] += sequence.cached_tokens
            if sequence.remote or self.model.cache.host_capacity:
                metrics.external_queries += sequence.prompt_tokens - sequence.cached_tokens
                metrics.external_hits += sequence.host_tokens + sequence.remote_tokens
                metrics.cached_by_tier["host"] += sequence.host_tokens
                metrics.cached_by_tier["p2p"] += sequence.remote_tokens

    def _note_first_token(self, generation: Generation) -> None:
        metrics, sequence = self.metrics, generation.sequence
        external = sequence.host_tokens + sequence.remote_tokens
        metrics.prompt_tokens += sequence.prompt_tokens
        sources = metrics.prompt_tokens_by_source
        sources["local_cache_hit"] += sequence.cached_tokens
        sources["external_kv_transfer"] += external
        sources["local_compute"] += sequence.prompt_tokens - sequence.cached_tokens - external
        metrics.time_to_first_token.observe(generation.first_token_at - generation.arrived_at)

    def _note_finished(self, generation: Generation) -> None:
        metrics, sequence = self.metrics, generation.sequence
        output = len(generation.output)
        decode = generation.last_token_at - generation.first_token_at
        metrics.finished[generation.finish_reason or "stop"] += 1
        metrics.end_to_end.observe(generation.last_token_at - generation.arrived_at)
        metrics.queue_time.observe(generation.scheduled_at - generation.arrived_at)
        metrics.prefill_time.observe(generation.first_token_at - generation.scheduled_at)
        metrics.inference_time.observe(generation.last_token_at - generation.scheduled_at)
        metrics.decode_time.observe(decode)
        metrics.time_per_output_token.observe(decode / (output - 1) if output > 1 else 0.0)
        metrics.request_preemptions.observe(sequence.preemptions)
        metrics.request_prompt_tokens.observe(sequence.prompt_tokens)
        metrics.request_generation_tokens.observe(output)
        metrics.request_max_tokens.observe(sequence.output_limit)
        metrics.request_choices.observe(generation.plan.choices)
        cached = sequence.cached_tokens + sequence.host_tokens + sequence.remote_tokens
        metrics.request_computed_tokens.observe(sequence.prompt_tokens - cached)
