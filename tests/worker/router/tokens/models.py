"""Small model folders made on the spot: a byte-level BPE with merges, special tokens, and a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY: Final = 480
SPECIALS: Final = ("<|bos|>", "<|eos|>", "<|start|>", "<|end|>", "<|tool|>")

_TRAINING: Final = """
Every request goes where most of its prefix already lies, unless that engine is too busy. Tokens are counted once,
blocks are hashed in a chain, and what was seen before is not read again. Das Modell antwortet auf Deutsch, en français,
日本語で, по-русски und mit 🙂, even where characters combine: é, ñ, क्षि. {"name": "weather", "arguments": {"a": "b"}}
0123456789 the the the and and of of to to in in is is that that with with for for as as it it on on at at by by
"""

CHATML: Final = """\
{%- if tools %}
    {{- '<|start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- 'Functions that may be called:' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '<|end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|start|>system\\n' + messages[0].content + '<|end|>\\n' }}
{%- endif %}
{%- set ns = namespace(tools=false, last=messages | length - 1) %}
{%- for message in messages %}
    {%- if message.role in ('user', 'developer') or (message.role == 'system' and not loop.first) %}
        {{- '<|start|>' + message.role + '\\n' + message.content + '<|end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|start|>assistant\\n' }}
        {%- if message.reasoning_content and loop.index0 == ns.last %}
            {{- '(' + message.reasoning_content | trim + ')\\n' }}
        {%- endif %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<|tool|>' + call.function.name + ' ' + (call.function.arguments | tojson) + (call | tojson) }}
        {%- endfor %}
        {{- '<|end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start|>user\\n<|tool|>' + message.content + '<|end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '()\\n' }}
    {%- endif %}
{%- endif %}
"""
"""Roles between special tokens, functions as JSON."""

PARTS: Final = """\
{% macro shown(content) %}{% for part in content %}{% if part.type == 'text' %}{{ part.text }}{{ part.note }}
{% endif %}{% endfor %}{% endmacro %}
{{ bos_token }}{% for message in messages %}
<|start|>{{ message['role'] }}{% if message.name %} ({{ message.name }}){% endif %}

{% if message['content'] is string %}{{ message['content'] }}{% else %}{{ shown(message['content']) }}{% endif %}<|end|>
{% if loop.index == 40 %}{% break %}{% endif %}
{% endfor %}
{% for document in documents or [] %}{{ document.title }}: {{ document.text }}
{% endfor %}
{% if add_generation_prompt %}<|start|>assistant
{% endif %}
"""
"""Content as a list of parts, behind a macro; the beginning of text is written by the template."""

STRICT: Final = """\
{{- bos_token }}Today is {{ strftime_now('%Y') }}.
{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] | trim %}
{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('users and assistants take turns') }}
    {% endif %}
    {% if message['role'] == 'user' %}
{{ '[' + (system + '\\n' if loop.first and system else '') + message['content'] | trim + ']' }}
    {% else %}
{% generation %}{{ message['content'] | trim }}{{ eos_token }}{% endgeneration %}

    {% endif %}
{% endfor %}
"""
"""Trims what it shows, and raises for conversations that it does not like."""


def train(
    specials: tuple[str | AddedToken, ...] = SPECIALS, *, vocabulary: int = VOCABULARY, begins: bool = False
) -> Tokenizer:
    """A byte-level BPE with merges; ``begins``: it puts a token at the beginning of every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        special_tokens=[name if isinstance(name, AddedToken) else AddedToken(name, special=True) for name in specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TRAINING], trainer)
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.token_to_id("<|bos|>"))]
        )
    return tokenizer


def write_model(
    folder: Path, template: str | None = CHATML, *, tokenizer: Tokenizer | None = None, **config: Any
) -> Path:
    """The files of a tokenizer; ``config`` goes into tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or train()).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "TokenizersBackend", "bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|eos|>",
    } | config  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder
