"""``paceline validate FILE...``: say what is wrong with manifests, all of it, without a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from paceline.errors import ConfigError, PacelineError

if TYPE_CHECKING:
    from paceline.api.v1alpha1 import ModelDeployment


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
    code = 0
    for name in files:
        try:
            md = _read(name)
        except PacelineError as error:
            click.echo(f"paceline: {error}", err=True)
            code = max(code, error.exit_code)
        else:
            click.echo(f"{name}: valid ({md.metadata.name})")
    return code


def _read(name: str) -> ModelDeployment:
    from paceline.cli.manifests import read_manifest
    from paceline.planner.settings import engine_models
    from paceline.policy.resources import children

    md = read_manifest(name)
    # What a pod template changes is judged where it is merged, a named profile where it is looked up.
    children(md)
    try:
        engine_models(md)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    return md
