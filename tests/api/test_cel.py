"""The rules as the CRD has them refuse what they are written for, and nothing that is valid."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from paceline.api.crd import custom_resource_definition
from paceline.api.v1alpha1.rules import RULES
from tests.api.cel import broken_rules, compiled
from tests.api.documents import INVALID, SAMPLES, expected_refusal

(VERSION,) = custom_resource_definition()["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
MESSAGES = {rule.message for rule in RULES}


@pytest.mark.parametrize(
    ("rule", "scope", "holds"),
    [
        ("self.a + 2 * self.b == 7 && !(self.a > self.b)", {"a": 1, "b": 3}, True),
        ("has(self.c) ? self.c : self.a in [1, 5]", {"a": 1}, True),
        ("self.l.exists(x, x.replace('_', '-').matches('^a-(b|c)$'))", {"l": ["a", "a_c"]}, True),
        ("size(self.l) > 0 || self.missing", {"l": [0]}, True),
        ("'it\\'s' == self.a", {"a": "it's"}, True),
        ("self.a % 2 == 1", {"a": 4}, False),
    ],
)
def test_expressions_mean_what_they_mean_in_cel(rule: str, scope: dict[str, Any], holds: bool) -> None:
    assert compiled(rule)({"self": scope}) is holds


@pytest.mark.parametrize("rule", ["self.a ==", "self # a", "(self.a", "self.a self.b"])
def test_what_is_not_understood_is_an_error(rule: str) -> None:
    with pytest.raises(SyntaxError):
        compiled(rule)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples_break_no_rule(path) -> None:
    assert list(broken_rules(SCHEMA, yaml.safe_load(path.read_text()))) == []


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_refused_documents_break_the_rule_that_their_first_line_names(path) -> None:
    message = expected_refusal(path).partition(": ")[2]
    named = [known for known in MESSAGES if message and known.startswith(message[:60])]
    if named:
        assert named[0] in list(broken_rules(SCHEMA, yaml.safe_load(path.read_text())))
    else:
        assert not any(message.startswith(known[:20]) for known in MESSAGES), "the schema refuses it, no rule"
