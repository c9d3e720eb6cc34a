"""Requests as clients send them: decoded once, checked, turned into what the engine needs to know.

Unknown fields are ignored, as vLLM ignores them. Fields that would change the answer and that the emulator can't honour
are refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from paceline.unreadable import UNREADABLE
from paceline_worker.emulator.errors import ApiError, malformed, not_found
from paceline_worker.emulator.tokens import VOCABULARY, encode, message_text, render_chat

MAX_PROMPTS: Final = 1024
"""Prompts in one completion request."""
MAX_CHOICES: Final = 128
"""``n``."""
MAX_STOPS: Final = 64
"""Stop strings and stop tokens of one request."""
MAX_LOGPROBS: Final = 20
DEFAULT_COMPLETION_TOKENS: Final = 16

REFUSED: Final = ("use_beam_search", "prompt_logprobs", "truncate_prompt_tokens", "prompt_embeds", "suffix", "echo")
"""Fields that would change the answer; refused when set."""

Body = TypeVar("Body", bound="_Body")


class StreamOptions(msgspec.Struct):
    """What a stream tells besides text."""

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class _Body(msgspec.Struct, kw_only=True):
    model: str | None = None


class Generation(_Body, kw_only=True):
    """What completions and chats have in common."""

    n: int | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    priority: int = 0
    cache_salt: str | None = None
    kv_transfer_params: dict[str, Any] | None = None
    return_token_ids: bool | None = None
    request_id: str | None = None
    use_beam_search: bool = False
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    prompt_embeds: Any = None
    suffix: str | None = None
    echo: bool | None = False


class Completion(Generation, kw_only=True):
    """``/v1/completions``."""

    prompt: str | list[int | str | list[int]] | None = None
    logprobs: int | None = None


class Chat(Generation, kw_only=True):
    """``/v1/chat/completions``."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    add_generation_prompt: bool = True


class Embedding(_Body, kw_only=True):
    """``/v1/embeddings``."""

    input: str | list[int | str | list[int]]
    encoding_format: str = "float"
    dimensions: int | None = None


class Tokenize(_Body, kw_only=True):
    """``/tokenize``: a text or a conversation."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False


class Detokenize(_Body, kw_only=True):
    """``/detokenize``."""

    tokens: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One checked request: its prompts as tokens, and how to continue each."""

    prompts: list[list[int]]
    choices: int
    """Continuations of each prompt."""
    model: str
    """The name to answer with."""
    lora: str | None
    stream: bool
    include_usage: bool
    continuous_usage: bool
    max_tokens: int | None
    """None: until the text ends or the context is full."""
    min_tokens: int
    ignore_eos: bool
    stops: tuple[str, ...]
    stop_tokens: frozenset[int]
    include_stop: bool
    seed: int | None
    priority: int
    salt: str | None
    transfer: dict[str, Any] | None
    token_ids: bool
    logprobs: int | None
    """Alternatives to report for each token; None for none at all."""
    request_id: str | None


def read(kind: type[Body], body: bytes) -> Body:
    """Decode a body. Raises ApiError 400 that names the field."""
    try:
        return msgspec.json.decode(body, type=kind, strict=False)
    except UNREADABLE as error:
        where = str(error).rpartition(" - at `$")[2].strip("`.") if " - at `$" in str(error) else None
        raise malformed(f"1 validation error:\n  {error}", where or None) from None


def check_model(name: str | None, served: tuple[str, ...]) -> str:
    """The name to answer with. Raises ApiError 404 for a model that is not served here."""
    if not name:
        return served[0]
    if name not in served:
        raise not_found(f"The model `{name}` does not exist. Valid aliases: {', '.join(served)}.", param="model")
    return name


def plan_completion(body: Completion, model: str, lora: str | None, max_model_len: int) -> Plan:
    """Check a completion request."""
    prompts = token_prompts(body.prompt, "prompt")
    if body.logprobs is not None and not 0 <= body.logprobs <= MAX_LOGPROBS:
        raise ApiError(f"logprobs must be between 0 and {MAX_LOGPROBS}, got {body.logprobs}.", param="logprobs")
    limit = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    return _plan(body, prompts, model, lora, max_model_len, limit, body.logprobs)


def plan_chat(body: Chat, model: str, lora: str | None, max_model_len: int) -> Plan:
    """Check a chat request."""
    prompt = encode(conversation(body.messages, open_answer=body.add_generation_prompt))
    top = body.top_logprobs or 0
    if not 0 <= top <= MAX_LOGPROBS:
        raise ApiError(f"top_logprobs must be between 0 and {MAX_LOGPROBS}, got {top}.", param="top_logprobs")
    if top and not body.logprobs:
        raise ApiError("when using `top_logprobs`, `logprobs` must be set to true.", param="top_logprobs")
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return _plan(body, [prompt], model, lora, max_model_len, limit, top if body.logprobs else None)


def conversation(messages: list[dict[str, Any]], *, open_answer: bool) -> str:
    """A conversation as prompt text. Raises ApiError 400 for a message that is not text."""
    if not messages:
        raise ApiError("messages must hold at least one message.", param="messages")
    turns = []
    for index, message in enumerate(messages):
        role, text = message.get("role"), message_text(message.get("content"))
        if not isinstance(role, str) or not role:
            raise malformed(f"messages[{index}].role: a string is required", "messages")
        if text is None:
            raise malformed(f"messages[{index}].content: only text and lists of text parts are supported", "messages")
        turns.append((role, text))
    return render_chat(turns, open_answer=open_answer)


def token_prompts(prompt: str | list[int | str | list[int]] | None, field: str) -> list[list[int]]:
    """Tokens of one text, several texts, one list of ids or several of them. Raises ApiError 400."""
    if prompt is None or prompt in ("", []):
        raise ApiError(f"Either {field} or prompt_embeds must be provided and non-empty.", param=field)
    if isinstance(prompt, str):
        return [encode(prompt)]
    if isinstance(prompt[0], int):
        return [_ids(prompt, field)]
    if len(prompt) > MAX_PROMPTS:
        raise ApiError(f"{field} list length {len(prompt)} exceeds the maximum of {MAX_PROMPTS}.", param=field)
    prompts = []
    for item in prompt:
        if type(item) is not type(prompt[0]) or item in ("", []):
            raise malformed(f"{field}: items must all be non-empty texts or all lists of token ids", field)
        prompts.append(encode(item) if isinstance(item, str) else _ids(item, field))
    return prompts


def _ids(ids: object, field: str) -> list[int]:
    if not isinstance(ids, list) or set(map(type, ids)) != {int}:
        raise malformed(f"{field}: a list of token ids holds integers only", field)
    if min(ids) < 0 or max(ids) >= VOCABULARY:
        raise ApiError(f"Token id {max(ids)} is out of vocabulary (0 to {VOCABULARY - 1}).", param=field)
    return ids


def _plan(
    body: Generation,
    prompts: list[list[int]],
    model: str,
    lora: str | None,
    max_model_len: int,
    limit: int | None,
    logprobs: int | None,
) -> Plan:
    _check_sampling(body)
    for prompt in prompts:
        if len(prompt) >= max_model_len:
            raise ApiError(
                f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains "
                f"{len(prompt)} input tokens. Please reduce the length of the input prompt.",
                param="input_tokens",
            )
    if limit is not None and limit < 1:
        raise ApiError(f"max_tokens must be at least 1, got {limit}.", param="max_tokens")
    if limit is not None and limit > max_model_len:
        raise ApiError(
            f"max_tokens={limit} cannot be greater than max_model_len={max_model_len}. "
            "Please request fewer output tokens.",
            param="max_tokens",
        )
    if body.min_tokens < 0 or (limit is not None and body.min_tokens > limit):
        raise ApiError(
            f"min_tokens must be between 0 and max_tokens={limit}, got {body.min_tokens}.", param="min_tokens"
        )
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    stop_tokens = frozenset(body.stop_token_ids or ())
    if len(stops) + len(stop_tokens) > MAX_STOPS or "" in stops:
        raise ApiError(f"stop must hold at most {MAX_STOPS} strings, none of them empty.", param="stop")
    options = body.stream_options
    return Plan(
        prompts=prompts,
        choices=1 if body.n is None else body.n,
        model=model,
        lora=lora,
        stream=bool(body.stream),
        include_usage=bool(options and options.include_usage),
        continuous_usage=bool(options and options.include_usage and options.continuous_usage_stats),
        max_tokens=limit,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        stops=stops,
        stop_tokens=stop_tokens,
        include_stop=body.include_stop_str_in_output,
        seed=body.seed,
        priority=body.priority,
        salt=body.cache_salt or None,
        transfer=body.kv_transfer_params,
        token_ids=bool(body.return_token_ids),
        logprobs=logprobs,
        request_id=body.request_id,
    )


def _check_sampling(body: Generation) -> None:
    for field in REFUSED:
        if getattr(body, field):
            raise ApiError(f"The emulator does not support `{field}`; leave it out.", param=field)
    if body.n is not None and not 1 <= body.n <= MAX_CHOICES:
        raise ApiError(f"n must be between 1 and {MAX_CHOICES}, got {body.n}.", param="n")
    if body.temperature is not None and not 0 <= body.temperature < float("inf"):
        raise ApiError(f"temperature must be non-negative, got {body.temperature}.", param="temperature")
    if body.top_p is not None and not 0 < body.top_p <= 1:
        raise ApiError(f"top_p must be in (0, 1], got {body.top_p}.", param="top_p")
    if body.stream_options is not None and not body.stream:
        raise ApiError("Stream options can only be defined when `stream=True`.", param="stream_options")
