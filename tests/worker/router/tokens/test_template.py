"""Rendering conversations, and its bounds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jinja2
import pytest

from paceline.clock import VirtualClock, WallClock
from paceline.errors import ConfigError
from paceline_worker.router.tokens.content_format import wants_parts
from paceline_worker.router.tokens.errors import NoTokens, Outcome
from paceline_worker.router.tokens.prompt import ChatPrompt
from paceline_worker.router.tokens.template import ChatTemplate

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
MACRO = "{% macro show(parts) %}{% for part in parts %}{% endfor %}{% endmacro %}"
HELLO = [{"role": "user", "content": "hello"}]


class ImpatientClock(WallClock):
    """A second passes whenever somebody looks."""

    def __init__(self) -> None:
        self.looks = 0

    def monotonic(self) -> float:
        self.looks += 1
        return float(self.looks)


def prompt(messages: list[Any], **options: Any) -> ChatPrompt:
    defaults: dict[str, Any] = {
        "tools": None,
        "documents": None,
        "add_generation_prompt": False,
        "continue_final_message": False,
        "special_tokens": False,
        "variables": {},
    }
    return ChatPrompt(messages=messages, **(defaults | options))


def render(source: str, messages: list[Any] | None = None, **options: Any) -> str:
    template = ChatTemplate(source, now=lambda: NOON, clock=VirtualClock(), seconds=1)
    return template.render(prompt(messages or HELLO, **options), {"bos_token": "<s>"})


def refusal(source: str, messages: list[Any] | None = None, **options: Any) -> NoTokens:
    with pytest.raises(NoTokens) as caught:
        render(source, messages, **options)
    return caught.value


class TestHelpers:
    @pytest.mark.parametrize(
        ("source", "text"),
        [
            ("{{ bos_token }}{{ messages[0].content }}", "<s>hello"),
            ("{{ unknown }}{{ eos_token }}|", "|"),
            ("{{ {'a': 'ü<&>'} | tojson }}", '{"a": "ü<&>"}'),
            ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
            ("{{ strftime_now('%d %b %Y') }}", "04 May 2026"),
            ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
            ("{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02"),
            ("{% generation %}{% set x = 1 %}a{% endgeneration %}{{ x }}b", "ab"),
            ("{% for m in messages %}\n  {% if true %}\n x\n  {% endif %}\n{% endfor %}", " x\n"),
            ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}", "[1]"),
            ("{% for i in [1,2] recursive %}{{ i }}{% endfor %}{{ 'ab' * 2 }}{{ 2 ** 3 }}", "12abab8"),
            ("{% for i in [7, 8] %}{{ loop.index }}{{ loop.length }}{{ loop.last }}{% endfor %}", "12False22True"),
        ],
    )  # fmt: skip
    def test_templates_find_what_their_authors_expect(self, source: str, text: str) -> None:
        assert render(source) == text

    def test_variables_of_the_request_win_over_the_models_special_tokens(self) -> None:
        assert render("{{ bos_token }}{{ x }}", variables={"bos_token": "B", "x": 1}) == "B1"

    def test_roles_that_a_template_does_not_know_become_ones_that_it_knows(self) -> None:
        developer = [{"role": "developer", "content": "x"}]
        assert render("{{ messages[0].role }}", developer) == "system"
        assert render("{{ messages[0].role }}{# 'developer' #}", developer) == "developer"


class TestContinuing:
    SOURCE = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    TRIMS = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"

    def test_the_prompt_ends_with_the_last_message(self) -> None:
        assert (
            render(self.SOURCE, [*HELLO, {"role": "assistant", "content": "a "}], continue_final_message=True)
            == "[hello][a "
        )

    def test_blanks_that_a_template_trims_stay_away(self) -> None:
        messages = [*HELLO, {"role": "assistant", "content": "a \n"}]
        assert render(self.TRIMS, messages, continue_final_message=True) == "[hello][a"

    def test_the_last_text_of_several_parts_is_continued(self) -> None:
        source = "{% for m in messages %}[{% for p in m.content %}{{ p.text }},{% endfor %}]{% endfor %}"
        assert render(source, [{"role": "user", "content": ["a", "b"]}], continue_final_message=True) == "[a,b"

    @pytest.mark.parametrize("source", ["x", "{{ messages[0].role }}", "{# content #}"])
    def test_a_template_that_leaves_the_message_out_is_refused(self, source: str) -> None:
        assert refusal(source, continue_final_message=True).outcome is Outcome.REFUSED


class TestBounds:
    @pytest.mark.parametrize(
        "source",
        [
            "{{ raise_exception('not like that') }}",
            "{{ messages[7].content }}",
            "{{ 1 / 0 }}",
            "{{ messages.append(1) }}",
            "{{ ''.__class__.__mro__ }}{{ ().__class__.__bases__[0].__subclasses__() }}",
            "{{ lipsum() }}",
            "{% for i in range(10 ** 9) %}{% endfor %}",
            "{{ 'x' * 10 ** 9 }}",
            "{{ 9 ** 9999 }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        ],
    )
    def test_a_template_that_raises_or_wants_too_much_is_refused(self, source: str) -> None:
        assert refusal(source).outcome is Outcome.REFUSED

    def test_the_reason_that_a_template_gives_is_told(self) -> None:
        assert "take turns" in str(refusal("{{ raise_exception('take turns') }}"))

    @pytest.mark.parametrize(
        "source",
        [
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{% for i in range(99999) %}{{ i }}{% endfor %}",
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        ],
    )
    def test_a_template_that_goes_round_and_round_is_stopped_in_its_thread(self, source: str) -> None:
        clock = ImpatientClock()
        template = ChatTemplate(source, now=lambda: NOON, clock=clock, seconds=100)
        with pytest.raises(NoTokens) as caught:
            template.render(prompt(HELLO), {})
        assert caught.value.outcome is Outcome.SLOW
        assert clock.looks < 110

    def test_a_template_that_writes_without_end_is_stopped(self) -> None:
        source = "{% for i in range(9999) %}{{ messages[0].content }}{% endfor %}"
        assert "characters" in str(refusal(source, [{"role": "user", "content": "x" * 100_000}]))

    @pytest.mark.parametrize(
        "source",
        ["{% for x in %}", "{{ x" + ".y" * 500 + " }}", "{{ " + "(" * 5000 + " }}"],
        ids=["unfinished", "of more parentheses than Python takes", "deeper than the parser goes"],
    )
    def test_a_template_that_is_none_is_a_mistake_of_the_model(self, source: str) -> None:
        with pytest.raises(ConfigError, match="can't be compiled"):
            render(source)


class TestContentFormat:
    @pytest.mark.parametrize(
        "source",
        [
            "{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}",
            "{% for m in messages %}{% for p in m['content'] | list %}{% endfor %}{% endfor %}",
            "{% set rest = messages[1:] %}{% for m in rest %}{% for p in m.content %}{% endfor %}{% endfor %}",
            "{% for m in messages %}{% set content = m.content %}{% for p in content %}{% endfor %}{% endfor %}",
            MACRO + "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
            MACRO + "{% for m in messages %}{{ show(parts=m.content) }}{% endfor %}",
        ],
    )  # fmt: skip
    def test_a_template_that_loops_over_content_wants_parts(self, source: str) -> None:
        assert wants_parts(jinja2.Environment().parse(source))

    @pytest.mark.parametrize(
        "source",
        [
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            "{% for m in others %}{% for p in m.content %}{% endfor %}{% endfor %}",
            "{% macro f(content) %}{% for p in content %}{% endfor %}{% endmacro %}{{ f(messages) }}",
            "{% set ns.rest = messages %}{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}",
            "{% for a, b in messages %}{% endfor %}"
            "{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}",
            "{% for m in messages %}{% for k, v in m.content %}{% endfor %}{% endfor %}",
        ],
    )  # fmt: skip
    def test_any_other_template_gets_one_text(self, source: str) -> None:
        assert not wants_parts(jinja2.Environment().parse(source))
