"""Which streams another engine can go on with so that nobody can tell. Named by field: the client reads the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from paceline.unreadable import UNREADABLE
from paceline_worker.router.parse import Call, Kind

CARRIED: Final = frozenset(
    {
        "model", "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "include_stop_str_in_output",
        "ignore_eos", "skip_special_tokens", "spaces_between_special_tokens", "logit_bias", "bad_words",
        "allowed_token_ids", "repetition_penalty", "cache_salt", "priority", "user",
    }
)  # fmt: skip
"""Mean the same for the rest of an answer as for the whole. A repetition penalty counts prompt and answer alike."""
_ADAPTED: Final = frozenset(
    {"max_tokens", "max_completion_tokens", "min_tokens", "stream", "stream_options", "return_token_ids"}
)
"""Are computed anew for the rest."""
_OF_THE_PROMPT: Final = frozenset(
    {
        "prompt", "messages", "add_generation_prompt", "continue_final_message", "chat_template",
        "chat_template_kwargs", "documents", "add_special_tokens", "truncate_prompt_tokens", "reasoning_effort",
        "metadata", "store", "service_tier",
    }
)  # fmt: skip
"""Have done their part once the prompt is token ids, or have none."""
_NEUTRAL: Final = {
    "n": (1,), "best_of": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logprobs": (False,),
    "top_logprobs": (0,), "echo": (False,), "tools": ([],), "tool_choice": ("none",),
    "response_format": ({"type": "text"},), "parallel_tool_calls": (True, False),
    "use_beam_search": (False,), "include_reasoning": (True, False),
}  # fmt: skip
"""Values with which a field changes nothing. Otherwise: several choices would each need a stream of their own; the
penalties count tokens of the answer only; log-probabilities and grammars have a state that isn't in the tokens."""
_ANY: Final = msgspec.json.Decoder()
_MEDIA: Final = (b'_url"', b'"input_audio"', b'_embeds"')


def obstacle(call: Call) -> str | None:
    """Why a stream of this request can't be continued exactly elsewhere; None when it can."""
    if call.kind is Kind.OTHER or not call.stream or not call.single:
        return "it is no single stream of tokens"
    repeats = greedy(call)
    for name, raw in call.fields.items():
        if name in CARRIED or name in _ADAPTED:
            continue
        if name in _OF_THE_PROMPT:
            if name == "messages" and any(mark in bytes(raw) for mark in _MEDIA):
                return "its messages hold more than text"
            continue
        value = _value(call.fields, name)
        if value is None or (name == "seed" and repeats) or value in _NEUTRAL.get(name, ()):
            continue
        if name == "tool_choice" and _value(call.fields, "tools") in (None, []):
            continue
        return f"it sets {name}"
    return None


def greedy(call: Call) -> bool:
    """Whether the same tokens come out again when they are computed again."""
    return _value(call.fields, "temperature") == 0


def holds_back(call: Call) -> bool:
    """Whether an engine holds text back that might begin a stop string."""
    stop = call.fields.get("stop")
    return stop is not None and bytes(stop) not in (b"null", b"[]")


def _value(fields: Mapping[str, msgspec.Raw], name: str) -> object:
    """NaN, which is equal to nothing, for what only an engine may be able to read: a number with hundreds of digits."""
    raw = fields.get(name)
    try:
        return None if raw is None else _ANY.decode(raw)
    except UNREADABLE:
        return math.nan
