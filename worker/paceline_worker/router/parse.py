"""The one parse of a request: its top level into raw fields, of which only those that routing needs are looked at.

Everything else passes through as the bytes the client wrote. Bodies for the engines are put together from the same raw
fields, so that what was checked here is what an engine reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from paceline.api.wire import Media
from paceline.policy.routing.cost import EXPECTED_OUTPUT_TOKENS, RequestView
from paceline.unreadable import UNREADABLE
from paceline_worker.router.depth import MAX_DEPTH, too_deep
from paceline_worker.router.errors import ApiError
from paceline_worker.router.media import check_media

BYTES_PER_TOKEN: Final = 4
"""For prompts that come as text: a common average of English with today's vocabularies."""
SHOWN_CHARACTERS: Final = 80
"""How much of a wrong value an error message repeats."""

Fields = dict[str, msgspec.Raw]

_TOP: Final = msgspec.json.Decoder(Fields)
_INT: Final = msgspec.json.Decoder(int | None)
_BOOL: Final = msgspec.json.Decoder(bool | None)
_STR: Final = msgspec.json.Decoder(str | None)

_ONE: Final = msgspec.Raw(b"1")
_FALSE: Final = msgspec.Raw(b"false")
_TRUE: Final = msgspec.Raw(b"true")
_PREFILL_PARAMS: Final = msgspec.Raw(
    b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,'
    b'"remote_block_ids":null,"remote_host":null,"remote_port":null}'
)
_NOT_FOR_PREFILL: Final = frozenset(
    {
        "stream_options",
        "max_completion_tokens",
        "min_tokens",
        "logprobs",
        "top_logprobs",
        "return_token_ids",
        "n",
        "kv_transfer_params",
    }
)
"""They contradict one token and no stream, or only make the answer longer, which nobody reads."""


class Kind(StrEnum):
    """What a body is for."""

    COMPLETION = "completion"
    CHAT = "chat"
    OTHER = "other"
    """Runs on one engine as it is."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What bodies are checked against."""

    models: frozenset[str]
    adapters: frozenset[str]
    """Those of the models that are LoRA adapters."""
    max_model_len: int | None
    media: Media = Media.DATA_URLS
    """What engines may take from messages."""
    must_name: bool = False
    """Whether requests must name one, because that which engines take by default is not among them."""


class Call(msgspec.Struct, frozen=True):
    """A checked request."""

    kind: Kind
    fields: Fields
    stream: bool
    view: RequestView
    single: bool = False
    """Whether it has one prompt, not several."""
    salt: str | None = None
    """Its prompt shares no cache with those of another salt."""
    standing: int = 0
    """Of its tenant; added to its priority."""

    @property
    def shows_ids(self) -> bool:
        """Whether the client wants the ids of the tokens."""
        return bytes(self.fields.get("return_token_ids", b"")) == b"true"

    def body(self, kv_transfer_params: msgspec.Raw | None = None, *, ids: bool = False) -> bytes:
        """The body for the engine that answers. ``ids``: it is to name its tokens."""
        more: Fields = {}
        if kv_transfer_params is not None:
            more["kv_transfer_params"] = kv_transfer_params
        if ids:
            more["return_token_ids"] = _TRUE
        return msgspec.json.encode({**self.fields, **more} if more else self.fields)

    def prefill_body(self, *, hold: bool = True) -> bytes:
        """The body for an engine that only computes the prompt; ``hold``: and keeps its KV blocks for another."""
        kept = {name: raw for name, raw in self.fields.items() if name not in _NOT_FOR_PREFILL}
        kept.update(max_tokens=_ONE, stream=_FALSE)
        if hold:
            kept["kv_transfer_params"] = _PREFILL_PARAMS
        return msgspec.json.encode(kept)


def parse(kind: Kind, body: bytes, rules: Rules) -> Call:
    """Check a body. Raises ApiError 400 or 404 that names the field."""
    try:
        if not body.isascii():
            body.decode()  # fields are passed over as bytes, and some are looked at later
        fields = _TOP.decode(body)
    except UNREADABLE as error:
        raise ApiError(400, f"The body must be a JSON object: {error}") from None
    if too_deep(body):
        raise ApiError(400, f"The body nests deeper than {MAX_DEPTH} levels of objects and lists.")
    model = _check_model(fields, rules)
    adapter = model if model in rules.adapters else None
    if _given(fields, "kv_transfer_params"):
        raise ApiError(400, "kv_transfer_params: the router sets it; leave it out.", param="kv_transfer_params")
    if "messages" in fields:
        check_media(bytes(fields["messages"]), rules.media)
    if kind is Kind.OTHER:
        view = RequestView(prompt_tokens=len(body) // BYTES_PER_TOKEN, transferable=False, adapter=adapter)
        return Call(kind, fields, stream=False, view=view)
    prompt_tokens, single = _prompt(kind, fields)
    output_tokens = _max_tokens(fields, rules.max_model_len)
    count = _integer(fields, "n", least=1)
    return Call(
        kind,
        fields,
        stream=_boolean(fields, "stream"),
        single=single,
        salt=_field(fields, "cache_salt", _STR, "a string") or None,
        view=RequestView(
            prompt_tokens=prompt_tokens,
            output_tokens=min(EXPECTED_OUTPUT_TOKENS, output_tokens or EXPECTED_OUTPUT_TOKENS),
            transferable=single and count in (None, 1) and not _needs_whole_prompt(fields),
            adapter=adapter,
            # The engine's own scale counts the other way.
            priority=-(optional_integer(fields, "priority") or 0),
        ),
    )


def _check_model(fields: Fields, rules: Rules) -> str | None:
    model = _field(fields, "model", _STR, "a string")
    if model is None and rules.must_name:
        raise ApiError(400, f"model: is required; served are: {', '.join(sorted(rules.models))}.", param="model")
    if model is not None and model not in rules.models:
        known = ", ".join(sorted(rules.models))
        raise ApiError(404, f"model: {_shown(model)} does not exist here; served are: {known}.", param="model")
    return model


def _prompt(kind: Kind, fields: Fields) -> tuple[int, bool]:
    """Tokens of the prompt, exact for token ids, and whether it is a single one."""
    if kind is Kind.CHAT:
        raw = _required(fields, "messages")
        if raw[:1] != b"[" or raw[1:-1].isspace() or len(raw) <= len(b"[]"):
            raise ApiError(400, "messages: must be a list with at least one message.", param="messages")
        return len(raw) // BYTES_PER_TOKEN, True
    if not _given(fields, "prompt") and _given(fields, "prompt_embeds"):
        return len(fields["prompt_embeds"]) // BYTES_PER_TOKEN, False
    raw = _required(fields, "prompt")
    if raw[:1] == b'"':
        return max(1, (len(raw) - 2) // BYTES_PER_TOKEN), True
    inner = raw[1:].lstrip()[:1] if raw[:1] == b"[" else b""
    if inner.isdigit():
        return raw.count(b",") + 1, True
    if inner == b"[":
        return raw.count(b",") + 1, False
    if inner == b'"':
        return len(raw) // BYTES_PER_TOKEN, False
    raise ApiError(
        400, "prompt: must be a string, a list of token ids, or a list of those, and not empty.", param="prompt"
    )


def _max_tokens(fields: Fields, max_model_len: int | None) -> int | None:
    smallest = None
    for name in ("max_tokens", "max_completion_tokens"):
        value = _integer(fields, name, least=1)
        if value is None:
            continue
        if max_model_len is not None and value > max_model_len:
            raise ApiError(
                400, f"{name}: {value} is over the model's length; at most {max_model_len} is allowed.", param=name
            )
        smallest = value if smallest is None else min(smallest, value)
    return smallest


def _needs_whole_prompt(fields: Fields) -> bool:
    """Results of the prompt's own tokens, or beams: the engine that answers has to compute it itself."""
    return _given(fields, "prompt_logprobs") or _boolean(fields, "echo") or _boolean(fields, "use_beam_search")


def _given(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    raw = fields.get(name)
    return raw is not None and (len(raw) != len(b"null") or bytes(raw) != b"null")


def _required(fields: Fields, name: str) -> bytes:
    if not _given(fields, name):
        raise ApiError(400, f"{name}: is required.", param=name)
    return bytes(fields[name])


T = TypeVar("T")


def _field(fields: Fields, name: str, decoder: msgspec.json.Decoder[T | None], wanted: str) -> T | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except UNREADABLE:
        found = _shown(bytes(raw).decode("utf-8", "replace"))
        raise ApiError(400, f"{name}: must be {wanted}, not {found}.", param=name) from None


def optional_integer(fields: Fields, name: str) -> int | None:
    """An integer field; None where it is missing or null. Raises ApiError 400."""
    return _field(fields, name, _INT, "an integer")


def _integer(fields: Fields, name: str, *, least: int) -> int | None:
    value = optional_integer(fields, name)
    if value is not None and value < least:
        raise ApiError(400, f"{name}: must be at least {least}, not {value}.", param=name)
    return value


def _boolean(fields: Fields, name: str) -> bool:
    return bool(_field(fields, name, _BOOL, "true or false"))


def _shown(value: str) -> str:
    return value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}..."
