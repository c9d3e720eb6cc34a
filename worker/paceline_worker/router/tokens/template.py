"""Renders conversations through the model's chat template, within bounds.

A template is a program: Jinja's sandbox keeps it from touching anything, but not from running for ever. So a check of
the time is compiled into every loop and every macro: a render that takes too long ends in its own thread, wherever it
is, instead of being left behind (docs/decisions/0012). The helpers that templates find are those of `transformers`
(``tojson``, ``raise_exception``, ``strftime_now``, loop controls, ``generation``), and the way from messages to text is
that of vLLM 0.32. Called by :mod:`.folder`, in a thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from paceline.clock import Clock
from paceline.errors import ConfigError
from paceline_worker.router.tokens.content_format import wants_parts
from paceline_worker.router.tokens.conversation import Message, conversation, without_developers
from paceline_worker.router.tokens.errors import NoTokens, Outcome
from paceline_worker.router.tokens.prompt import ChatPrompt

MAX_CHARACTERS: Final = 16 * 1024 * 1024
"""Of a rendered prompt, and of what one multiplication in a template may make."""
MAX_EXPONENT: Final = 64
_CHECK: Final = "paceline_check"
"""Name under which a template finds the check of its time."""
_TAG: Final = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks the end of the message to go on with, as in `transformers`: where the template puts it, the prompt ends."""


class _TooSlow(Exception):
    """The time is up."""


class ChatTemplate:
    """One compiled template. Safe to use in several threads at once."""

    def __init__(self, source: str, *, now: Callable[[], datetime], clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._source = source
        environment = _environment(now)
        try:
            tree = environment.parse(source)
            self._parts = wants_parts(tree)
            _add_checks(tree)
            tree.set_environment(environment)
            self._template = environment.from_string(tree)
        except (TemplateError, RecursionError, SyntaxError, MemoryError, ValueError) as error:
            # The last three are what Python says of the code that Jinja made of it, of one that nests too deep, say.
            raise ConfigError(f"The chat template can't be compiled: {error}") from None
        self._knows_developers = "'developer'" in source or '"developer"' in source

    def render(self, prompt: ChatPrompt, special_tokens: Mapping[str, str]) -> str:
        """The prompt's text. Raises NoTokens; ``special_tokens`` are variables that the prompt's own may replace."""
        messages = conversation(prompt.messages, parts=self._parts)
        if not self._knows_developers and any(message["role"] == "developer" for message in messages):
            messages = without_developers(messages)
        continued = _Continued(messages, self._source) if prompt.continue_final_message else None
        variables = {
            **special_tokens,
            **prompt.variables,
            "messages": messages,
            "tools": prompt.tools,
            "documents": prompt.documents,
            "add_generation_prompt": prompt.add_generation_prompt,
        }
        text = self._run(variables)
        return text if continued is None else continued.cut(text)

    def _run(self, variables: dict[str, Any]) -> str:
        check = _Check(self._clock, self._clock.monotonic() + self._seconds)
        try:
            return "".join(_bounded(self._template.generate({**variables, _CHECK: check}), check))
        except _TooSlow:
            raise NoTokens(Outcome.SLOW, f"the chat template took over {self._seconds} s") from None
        except _RAISED as error:
            raise NoTokens(Outcome.REFUSED, f"the chat template raised {type(error).__name__}: {error}") from None


_RAISED: Final = (
    TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError
)  # fmt: skip
"""What templates raise: Jinja's errors, and those of the operators and methods that they may use."""


@dataclass(frozen=True, slots=True)
class _Check:
    """Called by the template whenever it goes round."""

    clock: Clock
    deadline: float

    def __call__(self) -> str:
        if self.clock.monotonic() > self.deadline:
            raise _TooSlow
        return ""


def _bounded(pieces: Iterable[str], check: _Check) -> Iterator[str]:
    size = 0
    for piece in pieces:
        check()
        size += len(piece)
        if size > MAX_CHARACTERS:
            raise TemplateError(f"the prompt has over {MAX_CHARACTERS} characters")
        yield piece


class _Continued:
    """The last message, left open at its end."""

    def __init__(self, messages: list[Message], source: str) -> None:
        last = messages[-1] = dict(messages[-1])
        content = last.get("content")
        if isinstance(content, list):
            blocks = last["content"] = [dict(block) for block in content]
            block = next((block for block in reversed(blocks) if "text" in block), None)
            if block is None:
                raise NoTokens(Outcome.REFUSED, "continue_final_message: the last message has no text")
            self._text = block["text"]
            block["text"] += _TAG
        else:
            self._text = str(content)
            last["content"] = self._text + _TAG
        if "content" not in source:
            raise NoTokens(Outcome.REFUSED, "continue_final_message: the chat template shows no content")

    def cut(self, rendered: str) -> str:
        """The prompt up to the end of the message."""
        end = rendered.rfind(_TAG.strip())
        if end < 0 or self._text.strip() not in rendered:
            raise NoTokens(Outcome.REFUSED, "continue_final_message: the chat template leaves out the last message")
        if rendered.startswith(_TAG, end):
            return rendered[:end]
        return rendered[:end].rstrip()  # the template trims messages


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, and a bound for the operators that make much out of little."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute ``left operator right``; raises TemplateError where that is out of bounds."""
        if operator == "**" and isinstance(right, int | float) and abs(right) > MAX_EXPONENT:
            raise TemplateError(f"an exponent of {right} is too large")
        for sequence, count in ((left, right), (right, left)):
            repeated = isinstance(sequence, str | list | tuple) and isinstance(count, int)
            if repeated and len(sequence) * count > MAX_CHARACTERS:
                raise TemplateError(f"{len(sequence)} times {count} is too much")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """``{% generation %}``: marks what the model wrote, for training; here it only passes its body on."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """A call block, as `transformers` makes it: names set inside stay inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_pass_on"), [], [], body).set_lineno(line)

    @staticmethod
    def _pass_on(caller: Macro) -> str:
        return str(caller())


def _environment(now: Callable[[], datetime]) -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    del environment.globals["lipsum"]  # random text, and as much of it as is asked for
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter: no escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _add_checks(tree: nodes.Template) -> None:
    """Put a check of the time at the head of each loop's and each macro's body."""
    bodies = [node.body for node in tree.find_all(nodes.For)]
    bodies += [node.body for node in tree.find_all(nodes.Macro)]
    bodies += [node.body for node in tree.find_all(nodes.CallBlock)]
    for body in bodies:
        call = nodes.Call(nodes.Name(_CHECK, "load"), [], [], None, None)
        body.insert(0, nodes.ExprStmt(call))
