"""The rest of a broken stream: what another engine is asked for, and its events in the client's words.

The request is a completion of token ids: those of the prompt and of what was said. Sampling goes on from exactly the
state that the first engine had; greedy answers come out as if nothing had happened.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from paceline.policy.routing.cost import EXPECTED_OUTPUT_TOKENS
from paceline_worker.router.parse import Call, Kind
from paceline_worker.router.resume.exactness import CARRIED
from paceline_worker.router.resume.transcript import DONE, Transcript

TARGET: Final = b"/v1/completions"
DEFAULT_COMPLETION_TOKENS: Final = 16
"""OpenAI's and vLLM's, for completions that don't say how many."""

_INT: Final = msgspec.json.Decoder(int | None)
_TRUE: Final = msgspec.Raw(b"true")


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


_OPTIONS: Final = msgspec.json.Decoder(_StreamOptions | None)


class _Head(msgspec.Struct):
    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)


_EVENT: Final = msgspec.json.Decoder(_Event)


class Differs(Exception):
    """The other engine said something else than what the client already has."""


class Continuation:
    """Of one broken stream; may itself break and be continued."""

    def __init__(self, call: Call, transcript: Transcript) -> None:
        self.call = call
        self.transcript = transcript
        options = call.fields.get("stream_options")
        found = None if options is None else _OPTIONS.decode(options)
        self._usage = bool(found and found.include_usage)
        self._every_usage = self._usage and bool(found and found.continuous_usage_stats)
        self._show_ids = call.fields.get("return_token_ids") == _TRUE
        self._head: _Head | None = None
        self.prompt_tokens = 0
        self.overlap = ""
        """Text that comes again because its tokens did not end where the client's text does."""

    def asks_for_length(self) -> bool:
        """Whether :meth:`rest` has to know how long a context may be."""
        return self.call.kind is Kind.CHAT and self._limit() is None

    def rest(self, prompt_ids: bytes, max_model_len: int | None) -> Call | None:
        """The request for what is still to be said; None when there is nothing: only the end of the stream is missing.

        ``prompt_ids``: comma-separated.
        """
        said = self.transcript.ids
        self.prompt_tokens = prompt_ids.count(b",") + 1
        limit = self._limit()
        if limit is None and max_model_len is not None:
            limit = max_model_len - self.prompt_tokens
        left = (DEFAULT_COMPLETION_TOKENS if limit is None else limit) - len(said)
        if self.transcript.finished or left <= 0:
            return None
        fields = {name: raw for name, raw in self.call.fields.items() if name in CARRIED}
        ids = prompt_ids + b"".join(b",%d" % token for token in said)
        fields.update(
            prompt=msgspec.Raw(b"[%b]" % ids),
            max_tokens=msgspec.Raw(b"%d" % left),
            stream=_TRUE,
            return_token_ids=_TRUE,
        )
        least = self._integer("min_tokens")
        if least is not None and least > len(said):
            fields["min_tokens"] = msgspec.Raw(b"%d" % (least - len(said)))
        view = msgspec.structs.replace(
            self.call.view,
            prompt_tokens=self.prompt_tokens + len(said),
            output_tokens=min(EXPECTED_OUTPUT_TOKENS, left),
        )
        return msgspec.structs.replace(self.call, kind=Kind.COMPLETION, fields=fields, view=view)

    def say(self, event: bytes) -> bytes:
        """One event of the other engine as the client is to see it; nothing for what it has already.

        Raises :class:`Differs`, and what is in ``UNREADABLE`` for what is no event of a completion.
        """
        if event == DONE:
            self.transcript.done = True
            return self.close()
        choices = _EVENT.decode(event.removeprefix(b"data: ")).choices
        if not choices:
            return b""  # usage: of the rest only
        choice = choices[0]
        text = self._fresh(choice.text)
        self.transcript.add(choice.token_ids or [], text)
        if choice.finish_reason is not None:
            self.transcript.finished = True
        elif not text:
            return b""
        return self._event(choice, text)

    def close(self) -> bytes:
        """The end of the stream."""
        usage = self._document([], {"usage": self._counts()}) if self._usage else b""
        return usage + DONE

    def cut_short(self) -> bytes:
        """The end of an answer that had its last token and lacked only the reason."""
        return self._event(_Choice(finish_reason="length"), "") + self.close()

    def _fresh(self, text: str) -> str:
        if not self.overlap:
            return text
        common = min(len(self.overlap), len(text))
        if self.overlap[:common] != text[:common]:
            raise Differs(f"its text goes on with {text[:40]!r} where {self.overlap[:40]!r} was sent")
        self.overlap = self.overlap[common:]
        return text[common:]

    def _event(self, choice: _Choice, text: str) -> bytes:
        ids = choice.token_ids if self._show_ids else None
        end = {"finish_reason": choice.finish_reason}
        stop = {"stop_reason": choice.stop_reason}
        told: dict[str, Any]
        if self.call.kind is Kind.CHAT:
            told = {"index": 0, "delta": {"content": text}, "logprobs": None, **end}
            if choice.finish_reason is not None:
                told |= stop
        else:
            told = {"index": 0, "text": text, "logprobs": None, **end, **stop, "prompt_token_ids": None}
        usage = {"usage": self._counts()} if self._every_usage else {}
        return self._document([{**told, "token_ids": ids}], usage)

    def _document(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
        if self._head is None:
            first = self.transcript.first.partition(b"\n\n")[0].removeprefix(b"data: ")
            self._head = msgspec.json.decode(first, type=_Head)
        head = msgspec.structs.asdict(self._head)
        return b"data: %b\n\n" % msgspec.json.encode({**head, "choices": choices, **more})

    def _counts(self) -> dict[str, int]:
        said = self.transcript.tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + said,
            "completion_tokens": said,
        }

    def _limit(self) -> int | None:
        names = ("max_completion_tokens", "max_tokens") if self.call.kind is Kind.CHAT else ("max_tokens",)
        return next((value for name in names if (value := self._integer(name)) is not None), None)

    def _integer(self, name: str) -> int | None:
        raw = self.call.fields.get(name)
        return None if raw is None else _INT.decode(raw)
