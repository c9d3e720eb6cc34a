"""docs/reference/cli.md, made from the commands themselves.

``make generate`` runs ``python -m paceline.cli.reference > docs/reference/cli.md``; a test holds that the page in the
repository is the one that this makes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final

import click

from paceline.cli import PROGRAM, SECTIONS, command_line
from paceline.cli.exit_codes import MEANINGS

HEAD: Final = """# Command line

Made from the commands by `make generate`. `paceline` and `kubectl paceline` are the same program: kubectl finds
`kubectl-paceline`, which is installed beside `paceline`, on the PATH. `paceline completion bash|zsh|fish` prints what a
shell needs to complete commands and flags.

- `-o json` and `-o yaml` print a document on standard output; what is said besides goes to standard error.
- `-n` and `--context` mean what they mean to kubectl. Commands that ask a cluster read the same kubeconfig.
- `status` and `explain` need the rights to get and list modeldeployments, pods and events; without events, or without
  the operator's Lease, `status` says less. `drain` and `flip` need to patch pods as well.
- Colours appear on terminals only, and nowhere with `NO_COLOR` set.
- An error is a sentence on standard error that names what is wrong and what would be right. `PACELINE_DEBUG=1` adds the
  traceback of a bug.
"""


def render() -> str:
    """The page."""
    return "\n".join([HEAD, *_exit_codes(), *_commands()]).rstrip() + "\n"


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes\n"
    yield "| Code | Means |\n|---|---|"
    for code, meaning in MEANINGS.items():
        yield f"| {code} | {meaning[0].upper()}{meaning[1:]} |"
    yield ""


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield "| | Command | |\n|---|---|---|"
    for title, commands in SECTIONS.items():
        for number, command in enumerate(commands):
            first = "" if number else title
            yield f"| {first} | [`{command.name}`](#{PROGRAM}-{command.name}) | {command.short_help} |"
    yield ""
    for name in sorted(command_line.commands):
        yield from _command(name, command_line.commands[name])


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=click.Context(command_line, info_name=PROGRAM))
    yield f"## {PROGRAM} {name}\n"
    yield f"```\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```\n"
    for paragraph in textwrap.dedent(command.help or "").split("\n\n"):
        yield textwrap.fill(_escaped(" ".join(paragraph.split())), 120) + "\n"
    rows = list(_options(command, context))
    if rows:
        yield "| Option | |\n|---|---|"
        yield from (f"| `{names}` | {text} |" for names, text in rows)
        yield ""
    examples = (command.epilog or "").partition("Examples:\n")[2]
    if examples:
        yield f"```\n{textwrap.dedent(examples).rstrip()}\n```\n"


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None and "--help" not in parameter.opts:
            names, text = (" ".join(part.split()) for part in record)
            yield names.replace("|", "\\|"), _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text of a help message as Markdown means it."""
    return text.replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    click.echo(render(), nl=False)
