"""The command line: ``paceline``. Each command is a module; what it needs is imported when it runs, so help is instant.

:func:`main` is the only place where errors become messages and exit codes.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

import click

from paceline import __version__
from paceline.cli.bench import bench
from paceline.cli.calibrate import calibrate
from paceline.cli.check import check
from paceline.cli.completion import completion
from paceline.cli.drain import drain
from paceline.cli.exit_codes import BUG, FINE, INTERRUPTED, NOT_FINE
from paceline.cli.explain import explain
from paceline.cli.flip import flip
from paceline.cli.operator import operator
from paceline.cli.plan import plan
from paceline.cli.planner import planner
from paceline.cli.record import record
from paceline.cli.simulate import simulate
from paceline.cli.status import status
from paceline.cli.up import up
from paceline.cli.validate import validate
from paceline.errors import ConfigError, PacelineError

DEBUG_ENV: Final = "PACELINE_DEBUG"
COMPLETE_ENV: Final = "_PACELINE_COMPLETE"
"""By which shells ask for completions; see :mod:`paceline.cli.completion`."""
PROGRAM: Final = "paceline"
PLUGIN: Final = "kubectl paceline"
NAME_WIDTH: Final = 10
SHORT_HELP: Final = 70
"""Characters of a command's line in the help."""
EXTRAS: Final = {
    "aiohttp": "router",
    "httptools": "router",
    "httpx": "simulator",
    "kopf": "operator",
    "kubernetes": "operator",
    "matplotlib": "simulator",
    "numpy": "simulator",
    "prometheus_client": "operator",
    "tokenizers": "router",
    "uvloop": "router",
}
"""Packages that the base install leaves out, and the extra of ours that brings them."""


SECTIONS: Final = {
    "On this machine": (up, bench, validate),
    "In a cluster": (status, explain, drain, flip, planner, check),
    "Before you buy": (plan, simulate, record, calibrate),
    "What pods run": (operator,),
    "Shells": (completion,),
}
"""Commands by what people want, in the order of the help."""


class Sections(click.Group):
    """A group whose help has its commands by section."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's own
        """See click.Group."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                # One width for all sections, so that they line up.
                formatter.write_dl(
                    [(f"{command.name:{NAME_WIDTH}}", command.get_short_help_str(SHORT_HELP)) for command in commands]
                )


@click.group(
    cls=Sections,
    commands=[command for commands in SECTIONS.values() for command in commands],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes are the same everywhere: 0 fine, 1 what was asked about is not fine, 2 wrong input, 6 no "
    "cluster; all of them are in docs/reference/cli.md. Each command's --help has examples.",
)
@click.version_option(__version__, prog_name=PROGRAM)
def command_line() -> None:
    """Serve language models on vLLM, split into prefill and decode, at a latency objective."""


def main() -> None:
    """Entry point of the ``paceline`` program."""
    sys.exit(run(sys.argv[1:]))


def kubectl_main() -> None:
    """Entry point of ``kubectl-paceline``, which kubectl runs as ``kubectl paceline``: the same program."""
    sys.exit(run(sys.argv[1:], name=PLUGIN))


def run(arguments: Sequence[str], *, name: str = PROGRAM) -> int:
    """Run one command and return its exit code. Whatever goes wrong ends in a message on standard error. ``name`` is
    what the user calls the program.
    """
    try:
        code = command_line.main(args=list(arguments), prog_name=name, complete_var=COMPLETE_ENV, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except PacelineError as error:
        click.echo(f"paceline: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has gone. Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_FINE
    except Exception as error:  # noqa: BLE001 - the root of the program: users get a message, never a traceback
        if (missing := _missing_package(error)) is not None:
            click.echo(f"paceline: {missing}", err=True)
            return ConfigError.exit_code
        if os.environ.get(DEBUG_ENV):
            traceback.print_exc()
        click.echo(
            f"paceline: this should not happen, please report it: {type(error).__name__}: {error}\n"
            f"Run again with {DEBUG_ENV}=1 to see where.",
            err=True,
        )
        return BUG
    return code if isinstance(code, int) else FINE


def _missing_package(error: Exception) -> str | None:
    """What to install, where a command needs more than the base install has."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in EXTRAS:
        return None
    return f"this command needs the package {package}: pip install 'paceline[{EXTRAS[package]}]'."
