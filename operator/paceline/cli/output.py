"""How commands print: documents for programs (``-o json|yaml``), tables for people. Called by the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from paceline.cli.options import JSON
from paceline.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

WIDE: Final = 200
"""Columns of a table that goes to a file or a pipe, where nothing says how wide it may be."""


def print_document(document: Any, output: str) -> None:
    """Print a document of plain values as JSON or YAML."""
    click.echo(document_text(document, output), nl=False)


def document_text(document: Any, output: str) -> str:
    """The same as text that ends with a line break."""
    if output == JSON:
        import json

        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    import yaml

    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=WIDE))


def write_file(option: str, path: Path, text: str) -> None:
    """Write what ``option`` asks for. Raises ConfigError where that can't be."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option}: can't write {path}: {error.strerror}.") from None


def make_console(*, aside: bool = False) -> Console:
    """A console on standard output, or on standard error. It writes colours to terminals only, and fits tables to the
    terminal's width.
    """
    from rich.console import Console

    console = Console(stderr=aside, highlight=False)
    return console if console.is_terminal else Console(stderr=aside, highlight=False, width=WIDE)
