"""Bodies of requests as far as they are looked at before an engine has them: fields, prompts, conversations, terms."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any, Final

from paceline.api import wire
from paceline.clock import Clock, VirtualClock, WallClock
from paceline.errors import ConfigError
from paceline_worker.router.errors import ApiError
from paceline_worker.router.parse import Kind, Rules, parse
from paceline_worker.router.tenants.terms import Terms
from paceline_worker.router.tokens.byte_model import ByteModel
from paceline_worker.router.tokens.errors import NoTokens
from paceline_worker.router.tokens.prompt import ChatPrompt, TextPrompt, read_prompt
from paceline_worker.router.tokens.template import ChatTemplate
from tests.fuzz.front_door import _BODIES, _NAMES
from tests.fuzz.inputs import json_bytes, mutated, spoiled
from tests.fuzz.target import Found, Plain
from tests.worker.router.fakes import MODEL

_RULES: Final = Rules(frozenset({MODEL, "alias", "adapter"}), frozenset({"adapter"}), 8192)
_NOW: Final = datetime(2026, 5, 4, tzinfo=UTC)
_TEMPLATES: Final = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}",
    "{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% for m in messages %}{{ m['role'] }}: "
    "{% for p in m['content'] %}{{ p['text'] | trim }}{% endfor %}{% if m.tool_calls %}{{ m.tool_calls | tojson }}"
    "{% endif %}{% generation %}x{% endgeneration %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages if m.role != 'tool' %}{% set ns.n = ns.n + 1 %}"
    "{{ m.content[:5] }}{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ strftime_now('%Y') }}{{ ns.n * 'a' }}"
    "{{ raise_exception('no') if ns.n > 3 }}",
)
_SYNTAX: Final = (
    b"{{", b"}}", b"{%", b"%}", b"{#", b"#}", b"__class__", b".__init__.__globals__", b"|", b"for", b"endfor", b"in",
    b"range(9)", b"*9999999", b"**99", b"'", b'"', b"[", b"]", b"loop", b"macro", b"messages", b"self", b"%c", b"~",
    b"-", b"|map('x')", b"|tojson", b"|format(1)", b"(", b")", b"cycler()", b"joiner()", b"namespace()", b"is", b"not",
    b"//0",
)  # fmt: skip


class Bodies(Plain):
    """One body for each kind of request, through the parse, a tenant's terms and the byte tokens."""

    name = "bodies"
    share = 14

    def __init__(self) -> None:
        self._terms = Terms(reasoning_tokens=10, tenant=wire.Tenant(name="t", priority=2), isolate=True)
        self._model = ByteModel()

    def make(self, rng: random.Random) -> bytes:
        data = json_bytes(rng, spoiled(rng, rng.choice(_BODIES), _NAMES))
        return mutated(rng, data) if rng.random() < 0.3 else data

    def check(self, data: bytes) -> None:
        for kind in Kind:
            try:
                call = self._terms.impose(parse(kind, data, _RULES))
            except ApiError as error:
                if not 400 <= error.status < 500:
                    raise Found(f"{error.status} for a client's fault") from None
                error.body()
                continue
            if call.salt is None or (not call.salt.startswith("t") and len(call.salt) != 64):
                raise Found(f"a tenant's request left its cache: {call.salt!r}")
            again = parse(kind, call.body(ids=True), _RULES)
            if again.view.prompt_tokens != call.view.prompt_tokens and kind is not Kind.OTHER:
                raise Found("the engine's body has another prompt")
            if kind is not Kind.OTHER:
                call.prefill_body()
            self._tokens(kind, call.fields)

    def _tokens(self, kind: Kind, fields: Any) -> None:
        try:
            prompt = read_prompt(kind, fields)
            if isinstance(prompt, ChatPrompt):
                self._model.encode(self._model.render(prompt), special_tokens=False)
            elif isinstance(prompt, TextPrompt):
                self._model.encode(prompt.text, special_tokens=True)
        except NoTokens:
            pass


class Conversations(Plain):
    """Messages and tools through chat templates, and now and then a template that is wrong itself."""

    name = "templates"
    share = 4

    def __init__(self) -> None:
        self._templates = [_compiled(source, VirtualClock()) for source in _TEMPLATES]

    def make(self, rng: random.Random) -> bytes:
        body = spoiled(rng, rng.choice([one for one in _BODIES if "messages" in one]), _NAMES)
        if rng.random() < 0.3 and isinstance(body, dict):
            body.update(continue_final_message=True, add_generation_prompt=False)
        data = json_bytes(rng, body)
        if rng.random() < 0.1:
            return b"\1" + mutated(rng, rng.choice(_TEMPLATES).encode(), (), _SYNTAX) + b"\0" + data
        return b"\0" + data

    def check(self, data: bytes) -> None:
        templates = self._templates
        if data[:1] == b"\1":
            source, _, data = data[1:].partition(b"\0")
            try:
                templates = [_compiled(source.decode("utf-8", "replace"), WallClock())]
            except ConfigError:
                return
        else:
            data = data[1:]
        try:
            prompt = read_prompt(Kind.CHAT, parse(Kind.CHAT, data, _RULES).fields)
        except (ApiError, NoTokens):
            return
        if not isinstance(prompt, ChatPrompt):
            raise Found("messages are no conversation")
        for template in templates:
            try:
                template.render(prompt, {"bos_token": "<s>"})
            except NoTokens as error:
                json.dumps(str(error))


def _compiled(source: str, clock: Clock) -> ChatTemplate:
    return ChatTemplate(source, now=lambda: _NOW, clock=clock, seconds=1)


TARGETS: Final = (Bodies, Conversations)
