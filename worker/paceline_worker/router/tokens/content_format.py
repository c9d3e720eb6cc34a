"""Whether a chat template wants a message's content as one string or as a list of parts: read from its syntax tree.

The rules are those by which vLLM 0.32 finds out when ``--chat-template-content-format`` is ``auto`` (its default): a
template that loops over the content of a message wants parts. Called once for each template, by :mod:`.template`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from jinja2 import nodes

_MESSAGES: Final = "messages"
_CONTENT: Final = "content"


class _Unclear(Exception):
    """The template binds names in a way that the rules don't cover; then content is a string."""


def wants_parts(template: nodes.Template) -> bool:
    """Whether content is to be a list of parts."""
    try:
        return _loops_over_content(template)
    except _Unclear:
        return False


def _loops_over_content(template: nodes.Template) -> bool:
    messages = _names_of_messages(template)
    in_macros: dict[int, set[str]] = {}
    for macro in template.find_all(nodes.Macro):
        parameters = _content_parameters(template, macro, messages)
        for loop in macro.find_all(nodes.For):
            in_macros[id(loop)] = parameters or in_macros.get(id(loop), set())
    for loop in template.find_all(nodes.For):
        over = loop.iter
        if any(_is_access(over, message, _CONTENT) for message in messages):
            _target(loop)
            return True
        # Outside of macros the name alone decides.
        if isinstance(over, nodes.Name) and over.name in in_macros.get(id(loop), {_CONTENT}):
            _target(loop)
            return True
    return False


def _names_of_messages(template: nodes.Template) -> list[str]:
    """Names that loops give to one message."""
    lists = list(_aliases(template, _MESSAGES))
    return [
        _target(loop) for loop in template.find_all(nodes.For) if any(_is_access(loop.iter, name) for name in lists)
    ]


def _aliases(template: nodes.Template, name: str) -> Iterator[str]:
    """The name and all that is assigned from it, directly or not."""
    seen = [name]
    yield name
    for known in seen:
        for assignment in template.find_all(nodes.Assign):
            if not _is_access(assignment.node, known):
                continue
            if not isinstance(assignment.target, nodes.Name):
                raise _Unclear
            if assignment.target.name not in seen:
                seen.append(assignment.target.name)
                yield assignment.target.name


def _content_parameters(template: nodes.Template, macro: nodes.Macro, messages: list[str]) -> set[str]:
    """Parameters of a macro that get the content of a message in some call."""
    names = [argument.name for argument in macro.args]
    found = set()
    for call in template.find_all(nodes.Call):
        if not isinstance(call.node, nodes.Name) or call.node.name != macro.name:
            continue
        given = [*zip(names, call.args, strict=False), *((pair.key, pair.value) for pair in call.kwargs)]
        for name, value in given:
            if name in names and any(_is_access(value, message, _CONTENT) for message in messages):
                found.add(name)
    return found


def _target(loop: nodes.For) -> str:
    if not isinstance(loop.target, nodes.Name):
        raise _Unclear
    return loop.target.name


def _is_access(node: nodes.Node | None, name: str, attribute: str | None = None) -> bool:
    """Whether an expression is a name, or an attribute of it, behind any filters, tests and slices."""
    while isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    if attribute is None:
        return _is_name(node, name)
    if isinstance(node, nodes.Getitem):
        matches = isinstance(node.arg, nodes.Const) and node.arg.value == attribute
    elif isinstance(node, nodes.Getattr):
        matches = node.attr == attribute
    else:
        return False
    return matches and _is_name(node.node, name)


def _is_name(node: nodes.Node | None, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
