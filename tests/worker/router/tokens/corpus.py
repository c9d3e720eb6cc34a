"""Prompts of all kinds, as clients send them: what exactness is tried on, here and against real engines."""

from __future__ import annotations

from typing import Any, Final

TEXTS: Final = (
    "Hello, world!",
    " leading and trailing blanks \n\n\t ",
    "Größe, naïve façade, žluťoučký kůň",
    "日本語のテキストと、한국어 텍스트와, 中文文本。",
    "Русский текст, ελληνικά, עברית, العربية",
    "हिन्दी क्षि, ไทย, தமிழ்",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 and e\u0301 a\u030a \u200b\u200d\ufeff",
    "specials: <|start|>user\nhi<|end|><|end|> <|tool|> <|bos|>x<|eos|>",
    "not quite specials: <|start| > <|Start|> <|start <||end|>",
    "def f(x):\n    return {'a': [x, 0x1F, 1e-9]}  # ok\r\n",
    "a" * 3000,
    "\n" * 700 + "x",
    "word " * 900,
    "<|start|>user\n" + "long " * 400 + "<|end|>\n<|start|>assistant\n" + "longer " * 300 + "<|end|>\nrest",
)

TOOLS: Final[list[dict[str, Any]]] = [
    {
        "type": "function",
        "function": {
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            "name": "weather",
            "unknown": 1,
        },
        "unknown": 2,
    },
    {"type": "function", "function": {"name": "zeit", "description": "Uhrzeit – “now” <b>&amp;</b>", "strict": True}},
]

_CALLS: Final[list[dict[str, Any]]] = [
    {"role": "user", "content": "Weather in Zürich?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "type": "function",
                "id": "call_1",
                "function": {"name": "weather", "arguments": '{"city": "Zürich", "days": [1, 2.50, 1e3], "x": null}'},
            },
            {"id": "call_2", "function": {"name": "zeit", "arguments": ""}, "type": "function", "index": 1},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": '{"sky": "☀️"}'},
    {
        "role": "tool",
        "tool_call_id": "call_2",
        "content": [{"type": "text", "text": "12:00"}, {"type": "text", "text": "UTC"}],
    },
]

CHATS: Final[tuple[dict[str, Any], ...]] = (
    {"messages": [{"role": "user", "content": "Hello"}]},
    {"messages": [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Grüße 🙂\n"}]},
    {"messages": [{"role": "user", "content": text} for text in TEXTS[:7]], "add_generation_prompt": False},
    {
        "messages": [
            {"role": "system", "content": "You know a lot."},
            {"role": "user", "content": TEXTS[12]},
            {"role": "assistant", "content": TEXTS[9]},
            {"role": "user", "content": "And <|start|>again<|end|>?"},
        ]
    },
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]},
    {
        "messages": [
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "x", "note": "!"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": None}]},
        ]
    },
    {"messages": [{"role": "user", "content": ""}, {"role": "assistant"}, {"role": "user", "content": "x"}]},
    {
        "messages": [
            {"role": "system", "content": "x-anthropic-billing-header: 7\nKeep."},
            {"role": "user", "content": "y"},
        ]
    },
    {
        "messages": [
            {"role": "developer", "content": "First.", "tools": [1]},
            {"role": "user", "content": "Hm"},
            {"role": "system", "content": [{"type": "text", "text": "Second."}]},
        ]
    },
    {"messages": [{"role": "user", "content": "Weather?"}], "tools": TOOLS, "tool_choice": "none"},
    {
        "messages": [{"role": "system", "content": "Use tools."}, *_CALLS, {"role": "assistant", "content": "Sunny."}],
        "tools": TOOLS,
        "tool_choice": "none",
    },
    {
        "messages": [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "one, two,"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    {
        "messages": [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "one,  \n"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    {
        "messages": [{"role": "user", "content": "Think"}],
        "chat_template_kwargs": {"enable_thinking": False, "x": "auto"},
    },
    {"messages": [{"role": "user", "content": "Think"}], "add_special_tokens": True},
    {
        "messages": [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "reasoning": " because ", "content": "A"},
        ],
        "add_generation_prompt": False,
    },
)

CHAT_ENDPOINT_ONLY: Final[tuple[dict[str, Any], ...]] = (
    {"messages": [{"role": "user", "content": "Think"}], "reasoning_effort": "none"},
    {"messages": [{"role": "user", "content": "Think"}], "documents": [{"title": "T", "text": "words"}]},
    {
        "messages": [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "reasoning_content": "old name", "content": "A"},
        ],
        "add_generation_prompt": False,
    },
)
"""Fields that ``/tokenize`` does not know."""

REFUSED: Final[tuple[dict[str, Any], ...]] = (
    {"messages": []},
    {"messages": [{"role": "user", "content": 5}]},
    {"messages": [{"content": "no role"}]},
    {"messages": [{"role": "user", "content": "x"}], "tools": []},
    {"messages": [{"role": "user", "content": "x"}], "continue_final_message": True},
    {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}], "tool_choice": "none"},
    {"messages": [{"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}]},
)
"""Chats that an engine refuses, whatever its template."""
