"""``paceline completion SHELL``: what a shell runs to complete our commands and flags."""

from __future__ import annotations

import click

from paceline.cli.exit_codes import FINE


@click.command(
    short_help="Print what a shell needs to complete commands.",
    epilog="""\b
Examples:
  source <(paceline completion bash)                             bash 4.4 or newer, in ~/.bashrc
  source <(paceline completion zsh)                              in ~/.zshrc, after compinit
  paceline completion fish > ~/.config/fish/completions/paceline.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the script that has SHELL complete commands and flags of paceline."""
    from click.shell_completion import get_completion_class

    from paceline.cli import COMPLETE_ENV, PROGRAM

    maker = get_completion_class(shell)
    if maker is None:
        raise click.UsageError(f"{shell} can't be completed.")
    made = maker(context.find_root().command, {}, PROGRAM, COMPLETE_ENV)
    # Not source(): it asks the bash of this machine for its version, and the script may be for another one.
    click.echo(made.source_template % made.source_vars())
    return FINE
