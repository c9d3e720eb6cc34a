"""Reads one YAML document as plain JSON values, and refuses everything that YAML allows and a manifest must not have.

``yaml.safe_load`` keeps the last of two equal keys, turns dates into objects, and expands aliases into as many copies
as the file asks for. Here duplicate keys, aliases, second documents, other tags, deep nesting and large files are
errors with a line. The loader of ModelDeployments calls it.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from paceline.errors import FieldProblem, SpecError

MAX_BYTES: Final = 1024 * 1024
"""Largest document; the API server's own limit on an object is about the same."""
MAX_DEPTH: Final = 64
"""Deepest nesting. The resource itself nests 10 levels, a PodSpec within it about as many again."""


class _Refused(yaml.MarkedYAMLError):
    pass


class _Reader(yaml.SafeLoader):
    """SafeLoader with JSON's types only, unique string keys, no aliases, and a bound on depth."""

    _depth = 0

    def _here(self) -> Any:
        return self.peek_event().start_mark  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _Refused(problem="anchors and aliases are not supported", problem_mark=self._here())
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=self._here())
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def read_mapping(self, node: yaml.Node) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _Refused(problem="expected a mapping", problem_mark=node.start_mark)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _Refused(
                    problem=f"the key {key!r} is not a string; put it in quotes", problem_mark=key_node.start_mark
                )
            if key in result:
                raise _Refused(problem=f"the key {key!r} is there twice", problem_mark=key_node.start_mark)
            result[key] = self.construct_object(value_node, deep=True)
        return result

    def read_sequence(self, node: yaml.Node) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            raise _Refused(problem="expected a list", problem_mark=node.start_mark)
        return [self.construct_object(child, deep=True) for child in node.value]

    def refuse(self, node: yaml.Node) -> Any:
        raise _Refused(problem=f"the tag {node.tag} is not supported", problem_mark=node.start_mark)


_JSON_SCALARS: Final = ("null", "bool", "int", "float", "str")
_Reader.yaml_constructors = {
    f"tag:yaml.org,2002:{kind}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"]
    for kind in _JSON_SCALARS
}
_Reader.add_constructor("tag:yaml.org,2002:map", _Reader.read_mapping)
_Reader.add_constructor("tag:yaml.org,2002:seq", _Reader.read_sequence)
# Dates stay the strings that they are in JSON.
_Reader.yaml_constructors["tag:yaml.org,2002:timestamp"] = _Reader.yaml_constructors["tag:yaml.org,2002:str"]
_Reader.add_constructor(None, _Reader.refuse)


def _in_words(error: yaml.MarkedYAMLError) -> str:
    """The parser's message; in other words for the two slips that most people make."""
    problem = error.problem or "can't be read as YAML"
    if "'\\t'" in problem:
        return "is indented with a tab; YAML takes spaces only"
    if problem.startswith("expected <block end>") and error.context_mark is not None:
        return (
            f"does not go on with what begins in line {error.context_mark.line + 1}: it is indented otherwise, or has"
            " a dash too many or too few"
        )
    return problem


def read_document(text: str | bytes, source: str) -> Any:
    """The only document in ``text``. Raises SpecError that names ``source`` and the line."""
    size = len(text if isinstance(text, bytes) else text.encode(errors="replace"))
    if size > MAX_BYTES:
        raise SpecError(source, [FieldProblem("(document)", f"must have at most {MAX_BYTES} bytes", f"{size} bytes")])
    try:
        documents = [document for document in yaml.load_all(text, Loader=_Reader) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "(document)"
        raise SpecError(source, [FieldProblem(where, _in_words(error))]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(source, [FieldProblem("(document)", f"can't be read as YAML: {error}")]) from None
    if len(documents) > 1:
        raise SpecError(
            source,
            [
                FieldProblem(
                    "(document)",
                    "must hold one document; put each into a file of its own",
                    f"{len(documents)} documents",
                )
            ],
        )
    if not documents:
        raise SpecError(source, [FieldProblem("(document)", "is empty")])
    return documents[0]
