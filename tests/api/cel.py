"""As much of CEL as the CRD's rules are written in, so that they can be asked without an API server.

Errors are as there: a field that is not there, or a wrong type, is no answer, and the API server refuses then. Its own
reading of the rules is tried in `tests/kube`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any, Final

Scope = Mapping[str, Any]
Term = Callable[[Scope], Any]

VALIDATIONS: Final = "x-kubernetes-validations"
_TOKEN: Final = re.compile(r"\s*(?:(\d+)|('(?:[^'\\]|\\.)*')|([A-Za-z_]\w*)|(\|\||&&|[=!<>]=|[-+*/%!<>?:.,()\[\]]))")
_COMPARE: Final = {
    "==": operator.eq, "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
    "in": lambda left, right: left in right,
}  # fmt: skip
_COUNT: Final = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv, "%": operator.mod,
}  # fmt: skip
_METHODS: Final[Mapping[str, Callable[..., Any]]] = {
    "contains": lambda text, part: part in text,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
    "replace": lambda text, old, new: text.replace(old, new),
}


class CelError(Exception):
    """A rule that has no answer for this value."""


@cache
def compiled(rule: str) -> Term:
    """What a rule says of a scope."""
    parser = _Parser(rule)
    term = parser.whole()
    if parser.here is not None:
        raise SyntaxError(f"{parser.here!r} in {rule}")
    return term


def broken_rules(schema: Mapping[str, Any], value: Any) -> Iterator[str]:
    """Messages of the rules that a value breaks, its defaults filled in. Rules on changes are left out."""
    yield from _broken(schema, _defaulted(schema, deepcopy(value)))


def _broken(schema: Mapping[str, Any], value: Any) -> Iterator[str]:
    for entry in schema.get(VALIDATIONS, ()):
        if "oldSelf" in entry["rule"]:
            continue
        try:
            holds = compiled(entry["rule"])({"self": value}) is True
        except (CelError, TypeError, ZeroDivisionError):
            holds = False
        if not holds:
            yield entry["message"]
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                yield from _broken(child, value[name])
    elif isinstance(value, list) and "items" in schema:
        for item in value:
            yield from _broken(schema["items"], item)


def _defaulted(schema: Mapping[str, Any], value: Any) -> Any:
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name not in value and "default" in child:
                value[name] = deepcopy(child["default"])
            if name in value:
                value[name] = _defaulted(child, value[name])
    elif isinstance(value, list) and "items" in schema:
        value[:] = [_defaulted(schema["items"], item) for item in value]
    return value


class _Parser:
    """Recursive descent, one method a level of precedence."""

    def __init__(self, text: str) -> None:
        self._tokens = [found.group().strip() for found in _TOKEN.finditer(text)]
        if "".join(self._tokens) != re.sub(r"\s(?=(?:[^']*'[^']*')*[^']*$)", "", text):
            raise SyntaxError(f"not understood: {text}")
        self._at = 0

    @property
    def here(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> str:
        token = self.here
        if token is None:
            raise SyntaxError("it ends too early")
        self._at += 1
        return token

    def _takes(self, *tokens: str) -> str | None:
        return self._next() if self.here in tokens else None

    def _expect(self, token: str) -> None:
        if self._next() != token:
            raise SyntaxError(f"no {token}")

    def whole(self) -> Term:
        condition = self._any()
        if not self._takes("?"):
            return condition
        then = self.whole()
        self._expect(":")
        otherwise = self.whole()
        return lambda scope: then(scope) if condition(scope) else otherwise(scope)

    def _any(self) -> Term:
        terms = [self._all()]
        while self._takes("||"):
            terms.append(self._all())
        return terms[0] if len(terms) == 1 else lambda scope: any(term(scope) for term in terms)

    def _all(self) -> Term:
        terms = [self._comparison()]
        while self._takes("&&"):
            terms.append(self._comparison())
        return terms[0] if len(terms) == 1 else lambda scope: all(term(scope) for term in terms)

    def _comparison(self) -> Term:
        left = self._sum()
        sign = self._takes(*_COMPARE)
        if sign is None:
            return left
        right, compare = self._sum(), _COMPARE[sign]
        return lambda scope: compare(left(scope), right(scope))

    def _sum(self) -> Term:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Term:
        return self._chain(("*", "/", "%"), self._sign)

    def _chain(self, signs: tuple[str, ...], part: Callable[[], Term]) -> Term:
        term = part()
        while (sign := self._takes(*signs)) is not None:
            term = _binary(_COUNT[sign], term, part())
        return term

    def _sign(self) -> Term:
        if self._takes("!"):
            term = self._sign()
            return lambda scope: not term(scope)
        return self._path()

    def _path(self) -> Term:
        term = self._atom()
        while self._takes("."):
            name = self._next()
            if not self._takes("("):
                term = _field(term, name)
            elif name == "exists":
                variable = self._next()
                self._expect(",")
                term = _exists(term, variable, self.whole())
                self._expect(")")
            else:
                term = _method(_METHODS[name], term, self._arguments(")"))
        return term

    def _atom(self) -> Term:
        token = self._next()
        if token == "(":
            term = self.whole()
            self._expect(")")
            return term
        if token == "[":
            items = self._arguments("]")
            return lambda scope: [item(scope) for item in items]
        if token.isdigit() or token.startswith("'"):
            constant = int(token) if token.isdigit() else re.sub(r"\\(.)", r"\1", token[1:-1])
            return lambda _: constant
        if self._takes("("):
            (argument,) = self._arguments(")")
            return _has(argument) if token == "has" else _size(argument)
        return lambda scope: scope[token]

    def _arguments(self, end: str) -> list[Term]:
        found: list[Term] = []
        while not self._takes(end):
            found.append(self.whole())
            self._takes(",")
        return found


def _binary(count: Callable[[Any, Any], Any], left: Term, right: Term) -> Term:
    return lambda scope: count(left(scope), right(scope))


def _field(term: Term, name: str) -> Term:
    def value(scope: Scope) -> Any:
        parent = term(scope)
        if not isinstance(parent, dict) or name not in parent:
            raise CelError(f"no such key: {name}")
        return parent[name]

    return value


def _has(term: Term) -> Term:
    def there(scope: Scope) -> bool:
        try:
            term(scope)
        except CelError:
            return False
        return True

    return there


def _size(term: Term) -> Term:
    return lambda scope: len(term(scope))


def _exists(term: Term, variable: str, condition: Term) -> Term:
    return lambda scope: any(condition({**scope, variable: item}) for item in term(scope))


def _method(method: Callable[..., Any], term: Term, arguments: list[Term]) -> Term:
    return lambda scope: method(term(scope), *(argument(scope) for argument in arguments))
