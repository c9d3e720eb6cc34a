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
from paceline.cli.calibrate import calibrate
from paceline.cli.check import check
from paceline.cli.explain import explain
from paceline.cli.operator import operator
from paceline.cli.plan import plan
from paceline.cli.planner import planner
from paceline.cli.record import record
from paceline.cli.simulate import simulate
from paceline.cli.status import status
from paceline.cli.up import up
from paceline.cli.validate import validate
from paceline.errors import PacelineError

INTERRUPTED: Final = 130
BUG: Final = 70
"""Exit code for what should not happen (EX_SOFTWARE of sysexits)."""
DEBUG_ENV: Final = "PACELINE_DEBUG"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="paceline")
def command_line() -> None:
    """Serve language models on vLLM, split into prefill and decode, at a latency objective."""


command_line.add_command(calibrate)
command_line.add_command(check)
command_line.add_command(explain)
command_line.add_command(operator)
command_line.add_command(plan)
command_line.add_command(planner)
command_line.add_command(record)
command_line.add_command(simulate)
command_line.add_command(status)
command_line.add_command(up)
command_line.add_command(validate)


def main() -> None:
    """Entry point of the ``paceline`` program."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Whatever goes wrong ends in a message on standard error."""
    try:
        code = command_line.main(args=list(arguments), prog_name="paceline", standalone_mode=False)
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
        return 1
    except Exception as error:  # noqa: BLE001 - the root of the program: users get a message, never a traceback
        if os.environ.get(DEBUG_ENV):
            traceback.print_exc()
        click.echo(
            f"paceline: this should not happen, please report it: {type(error).__name__}: {error}\n"
            f"Run again with {DEBUG_ENV}=1 to see where.",
            err=True,
        )
        return BUG
    return code if isinstance(code, int) else 0
