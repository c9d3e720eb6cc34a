"""What the flow counts of a request on its way: what it brought, and how its stream went."""

from __future__ import annotations

from paceline.clock import Clock
from paceline_worker.router.incoming import Incoming
from paceline_worker.router.matcher import Prepared
from paceline_worker.router.metrics import Metrics
from paceline_worker.router.outcomes import Outcomes
from paceline_worker.router.resume.transcript import Transcript
from paceline_worker.router.slo import SloCounts
from paceline_worker.router.stream import StreamRelay


class Counting:
    """One object for the process."""

    def __init__(self, metrics: Metrics, outcomes: Outcomes, slo: SloCounts, clock: Clock) -> None:
        self._metrics = metrics
        self._outcomes = outcomes
        self._slo = slo
        self._clock = clock

    def arrived(self, incoming: Incoming, prepared: Prepared) -> None:
        """Raises OverLimit for a tenant that has used its tokens: that is no demand that engines should meet."""
        prompt, held = prepared.base.prompt_tokens, 0
        if prepared.prompt is not None:
            prompt = prepared.peek().prompt_tokens
            held = min(prompt, max((known.tokens for known in prepared.known.values()), default=0))
        output = 0 if incoming.hints.prefetch else prepared.base.output_tokens
        incoming.visit.expect(cached=held, uncached=prompt - held, output=output)
        if prepared.prompt is not None:
            self._metrics.cached_tokens.observe(held)
            self._metrics.uncached_tokens.observe(prompt - held)

    def streamed(self, incoming: Incoming, relay: StreamRelay) -> None:
        """What an engine said of a stream, to its end or not."""
        if relay.first_at is not None:
            ttft = relay.first_at - incoming.arrived
            self._metrics.ttft.observe(ttft, incoming.trace.exemplar(ttft, self._clock.wall()))
            latency = relay.mean_gap()
            if latency is not None:
                self._metrics.itl.observe(latency)

    def went_on(self, incoming: Incoming, prepared: Prepared, transcript: Transcript | None) -> None:
        """A stream that went on elsewhere has ended well. A break in it counts like any time between tokens. A pause in
        which it gave way is time in the queue, and no reason for more engines.
        """
        if transcript is None or transcript.begun_at is None:
            return
        gaps, guest = transcript.tokens - 1, prepared.guest
        took = self._clock.monotonic() - transcript.begun_at - (0.0 if guest is None else guest.paused_seconds)
        itl = took / gaps if gaps > 0 else None
        waited = transcript.begun_at - incoming.arrived
        if guest is not None and guest.interruptions:
            self._outcomes.ended(ttft_met=guest.in_time, itl=itl)
            self._outcomes.answered(prepared.base.prompt_tokens, transcript.tokens)
        self._slo.streamed(incoming.request_class, ttft_seconds=waited, itl_seconds=itl)
