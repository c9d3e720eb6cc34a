"""``paceline explain NAME``: why there are as many engines as there are. ``paceline explain --request FILE``: where a
router would send a request, and why; nothing is run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from paceline.cli.names import deployment_names
from paceline.cli.options import TABLE, cluster_options, output_format
from paceline.errors import ConfigError, EngineError

if TYPE_CHECKING:
    import httpx

DEFAULT_ROUTER: Final = "http://127.0.0.1:8000"
KEY_ENV: Final = "PACELINE_API_KEY"
"""Has the key for a router that serves tenants only."""
TIMEOUT_SECONDS: Final = 30.0
MAX_REQUEST_BYTES: Final = 64 * 1024 * 1024
EXPLAIN: Final = {"x-paceline-explain": "only", "content-type": "application/json"}
SHOWN_ENGINES: Final = 16

COLUMNS: Final = ("engine", "role", "matched tokens", "worth", "queue", "compute", "waste", "transfer", "decode", "")


@click.command(
    short_help="Why so many engines; why a request goes where it goes.",
    epilog="""\b
Examples:
  paceline explain chat -n prod                        the last three decisions
  paceline explain chat --last 10 -o json
  paceline explain --run-dir /tmp/run                  of a `paceline up`
  paceline explain --request body.json --router http://127.0.0.1:8000
""",
)
@click.argument("name", required=False, shell_complete=deployment_names)
@cluster_options
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of a `paceline up` in place of a cluster.",
)
@click.option(
    "--last", type=click.IntRange(1, 100), default=3, show_default=True, help="Decisions to show of a ModelDeployment."
)
@click.option(
    "--request",
    "request_file",
    type=click.Path(path_type=Path),
    help="JSON body of a request, as a client would send it; - reads standard input.",
)
@click.option(
    "--router",
    default=DEFAULT_ROUTER,
    show_default=True,
    metavar="URL",
    help=f"Router to ask. Its API key, if it wants one: {KEY_ENV}.",
)
@click.option("--session", metavar="ID", help="Session that the request belongs to.")
@output_format
def explain(
    name: str | None,
    namespace: str | None,
    context: str | None,
    run_dir: Path | None,
    last: int,
    request_file: Path | None,
    router: str,
    session: str | None,
    output: str,
) -> None:
    """Show the planner's last decisions about the ModelDeployment NAME: what was seen, what each limit demanded, which
    one bound, what was not done, and what would have happened otherwise.

    With --request, show for one request: what each engine holds of its prompt, what it would cost there in
    milliseconds, and the choice. Nothing is run on any engine.
    """
    if request_file is None:
        _explain_scaling(_resource(name, namespace, context, run_dir), last, output)
        return
    if name is not None or run_dir is not None:
        raise ConfigError("--request explains a request, NAME and --run-dir a deployment: give one of them.")
    _explain_request(request_file, router, session, output)


def _resource(name: str | None, namespace: str | None, context: str | None, run_dir: Path | None) -> dict[str, Any]:
    from paceline.cli.decisions import of_cluster, of_run

    if run_dir is not None:
        return of_run(run_dir)
    if name is not None:
        return of_cluster(name, namespace, context)
    raise ConfigError("Name a ModelDeployment, or give --run-dir of a local run, or --request.")


def _explain_scaling(resource: dict[str, Any], last: int, output: str) -> None:
    from paceline.cli.decisions import document_of, lines_of
    from paceline.cli.output import print_document

    if output != TABLE:
        print_document(document_of(resource), output)
        return
    for line in lines_of(resource, most=last):
        click.echo(line)


def _explain_request(request_file: Path, router: str, session: str | None, output: str) -> None:
    import msgspec

    from paceline.cli.output import print_document
    from paceline.unreadable import UNREADABLE

    body = _read(request_file)
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except UNREADABLE as error:
        raise ConfigError(f"{request_file}: must be a JSON object: {error}") from None
    path = "/v1/chat/completions" if "messages" in fields else "/v1/completions"
    headers = EXPLAIN if session is None else {**EXPLAIN, "x-paceline-session": session}
    key = os.environ.get(KEY_ENV)
    if key:
        headers = {**headers, "authorization": f"Bearer {key}"}
    answer = _ask(router.rstrip("/") + path, body, headers)
    if output != TABLE:
        print_document(answer.json(), output)
        return
    for line in _lines(answer.json()):
        click.echo(line)


def _read(path: Path) -> bytes:
    try:
        with click.open_file(str(path), "rb") as source:
            content: bytes = source.read(MAX_REQUEST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--request: can't read {path}: {reason}.") from None
    if len(content) > MAX_REQUEST_BYTES:
        raise ConfigError(f"--request: {path} has more than {MAX_REQUEST_BYTES} bytes.")
    return content


def _ask(url: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    import httpx

    try:
        answer = httpx.post(url, content=body, headers=headers, timeout=TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineError(f"--router: {url} can't be asked: {error}.") from None
    if answer.status_code != 200 or not answer.headers.get("content-type", "").startswith("application/json"):
        raise EngineError(f"The router answered {answer.status_code}: {answer.text[:500]}")
    return answer


def _lines(explained: dict[str, Any]) -> list[str]:
    """The answer as a person reads it."""
    kind = "tokens" if explained["exact"] else "tokens, estimated from the text"
    lines = [f"prompt: {explained['promptTokens']:,} {kind}; output: {explained['outputTokens']:,} expected"]
    decode, prefill = explained["decode"], explained["prefill"]
    if decode is None:
        lines.append("no engine has room: the request would wait")
    else:
        lines.append(f"decode on {decode}: {explained['decodeCost']:,.1f} ms, its prompt and its output")
        where = f"prefill on {prefill}" if prefill else f"prefill there too ({explained['reason']})"
        lines.append(f"{where}: {explained['prefillCost']:,.1f} ms until the prompt is there")
    rows = [COLUMNS, *(_row(engine, decode, prefill) for engine in explained["engines"][:SHOWN_ENGINES])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines.append("")
    for row in rows:
        cells = (
            cell.ljust(width) if column in (0, 1, len(COLUMNS) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    left_out = explained["enginesLeftOut"] + max(0, len(explained["engines"]) - SHOWN_ENGINES)
    if left_out:
        lines.append(f"and {left_out} more, which would cost more")
    return lines


def _row(engine: dict[str, Any], decode: str | None, prefill: str | None) -> tuple[str, ...]:
    note = {decode: "decode", prefill: "prefill"}.get(engine["name"], "")
    if not engine["usable"]:
        note = "not usable"
    elif not engine["room"]:
        note = f"{note} full".strip()
    transfer = engine["transfer"]
    return (
        engine["name"],
        engine["role"],
        f"{engine['matchedTokens']:,}",
        f"{engine['worthTokens']:,}",
        f"{engine['queue']:,.1f}",
        f"{engine['compute']:,.1f}",
        f"{engine['waste']:,.1f}",
        "-" if transfer is None else f"{transfer:,.1f}",
        f"{engine['decode']:,.1f}",
        note,
    )
