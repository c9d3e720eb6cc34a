"""``paceline validate FILE...``: say what is wrong with manifests, all of it, without a cluster."""

from __future__ import annotations

import click

from paceline.errors import PacelineError


@click.command(
    short_help="Check manifests, without a cluster.",
    epilog="""\b
Examples:
  paceline validate deployment.yaml other.yaml
  kubectl get modeldeployment chat -o yaml | paceline validate -
""",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def validate(files: tuple[str, ...]) -> int:
    """Check ModelDeployment manifests. Prints a line for each valid FILE, every problem of the others, and fails if
    there are any. FILE can be - for standard input.
    """
    from paceline.cli.manifests import read_manifest

    code = 0
    for name in files:
        try:
            md = read_manifest(name)
        except PacelineError as error:
            click.echo(f"paceline: {error}", err=True)
            code = max(code, error.exit_code)
        else:
            click.echo(f"{name}: valid ({md.metadata.name})")
    return code
