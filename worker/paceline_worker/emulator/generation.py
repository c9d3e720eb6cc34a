"""One continuation while it is computed: its tokens, their block hashes, and where it ends."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Tokens
from hashlib import blake2b
from typing import Final, Protocol

from paceline.policy.engine.sequence import Sequence
from paceline_worker.emulator.protocol import Plan
from paceline_worker.emulator.tokens import EOS
from paceline_worker.emulator.voice import Voice, fold

_HASH_BYTES: Final = 8


class Sink(Protocol):
    """Whoever wants the tokens: a streamed or a whole answer."""

    def token(self, generation: Generation, token: int, text: str) -> None:
        """One more token. ``text`` may lag behind while a stop string could be in the making."""
        ...


class Generation:
    """The content of a :class:`Sequence` with real tokens. Generations of one prompt share its list."""

    __slots__ = (
        "_hashes", "_prompt_state", "_root", "arrived_at", "block_size", "finish_reason", "first_token_at", "held_text",
        "index", "last_token_at", "output", "plan", "prompt", "remote_state", "scheduled_at", "seed", "sequence",
        "sink", "stop_reason", "tail", "voice",
    )  # fmt: skip

    def __init__(
        self,
        plan: Plan,
        prompt: list[int],
        index: int,
        *,
        sink: Sink,
        output_limit: int,
        block_size: int,
        seed: int,
        transfers: bool = True,
    ) -> None:
        """``transfers``: whether the plan's ``kv_transfer_params`` are for this one."""
        self.plan = plan
        self.prompt = prompt
        self.index = index
        """Number of the choice in the answer."""
        self.sink = sink
        self.block_size = block_size
        self.seed = seed
        self.output: list[int] = []
        self.voice: Voice | None = None
        """None until the first token is due."""
        self.remote_state: int | None = None
        """State that came with the blocks of another engine."""
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.held_text = max(map(len, plan.stops), default=1) - 1
        """Characters kept back because a stop string may have begun."""
        self.tail = ""
        self.arrived_at = self.scheduled_at = self.first_token_at = self.last_token_at = 0.0
        self._hashes: list[int] = []
        self._prompt_state: int | None = None
        self._root = blake2b(f"{plan.lora or ''}\0{plan.salt or ''}".encode(), digest_size=_HASH_BYTES).digest()
        transfer = (plan.transfer or {}) if transfers else {}
        self.sequence = Sequence(
            self,
            len(prompt),
            output_limit,
            priority=plan.priority,
            remote=bool(transfer.get("do_remote_prefill")),
            hold=bool(transfer.get("do_remote_decode")),
        )

    def hashes(self, count: int) -> Tokens[int]:
        """See :class:`paceline.policy.engine.sequence.Content`."""
        known = self._hashes
        if len(known) < count:
            size = self.block_size
            first = len(known)
            packed = array("I", self.tokens(first * size, count * size)).tobytes()
            parent = known[-1].to_bytes(_HASH_BYTES, "big") if known else self._root
            width = size * array("I").itemsize
            for start in range(0, len(packed), width):
                parent = blake2b(packed[start : start + width], digest_size=_HASH_BYTES, key=parent).digest()
                known.append(int.from_bytes(parent, "big"))
        return known

    def tokens(self, start: int, end: int) -> list[int]:
        """Tokens ``start..end`` of prompt and output."""
        split = len(self.prompt)
        if end <= split:
            return self.prompt[start:end]
        return self.prompt[start:split] + self.output[max(start - split, 0) : end - split]

    def prompt_state(self) -> int:
        """State of the prompt but its last token: what travels with its KV blocks."""
        if self._prompt_state is None:
            self._prompt_state = fold(self.prompt[:-1])
        return self._prompt_state

    def say(self, forced: int | None = None, *, endless: bool = False) -> None:
        """Produce the next token (or ``forced``) and hand it on. Sets ``finish_reason`` if it was the last; an
        ``endless`` text has no last one of its own.
        """
        voice = self.voice
        if voice is None:
            state = self.prompt_state() if self.remote_state is None else self.remote_state
            last = self.prompt[-1]
            voice = self.voice = Voice(fold((last,), state), last, self.seed)
        plan = self.plan
        output = self.output
        if forced is None:
            token = voice.next(may_end=not (endless or plan.ignore_eos) and len(output) >= plan.min_tokens)
        else:
            token = forced
            voice.take(token)
        output.append(token)
        if token == EOS:
            self.finish_reason = "stop"
            text = self._flush()
        elif token in plan.stop_tokens and len(output) > plan.min_tokens:
            self.finish_reason, self.stop_reason = "stop", token
            text = self._flush()
        elif plan.stops:
            text = self._watch_stops(chr(token))
        else:
            text = chr(token)
        if self.finish_reason is None and not self.sequence.remaining:
            self.finish_reason = "length"
            text += self._flush()
        self.sink.token(self, token, text)

    def _watch_stops(self, character: str) -> str:
        """Text that is certain to be said; ends the generation at a stop string."""
        plan = self.plan
        tail = self.tail + character
        if len(self.output) > plan.min_tokens:
            for stop in plan.stops:
                place = tail.find(stop)
                if place >= 0:
                    self.finish_reason, self.stop_reason = "stop", stop
                    self.tail = ""
                    return tail[: place + len(stop) if plan.include_stop else place]
        certain = len(tail) - self.held_text
        if certain <= 0:
            self.tail = tail
            return ""
        self.tail = tail[certain:]
        return tail[:certain]

    def _flush(self) -> str:
        held, self.tail = self.tail, ""
        return held
