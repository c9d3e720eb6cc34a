"""``paceline bench URL``: send a load to an endpoint that serves already, and report how it did against an objective.

The load, the client and the report are those of ``paceline up``; here they meet somebody else's engines.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from paceline.cli.exit_codes import FINE, NOT_FINE
from paceline.cli.explain import KEY_ENV
from paceline.cli.options import TABLE, output_format
from paceline.cli.up import FACTOR, MINUTES, START
from paceline.errors import ConfigError, EngineError

if TYPE_CHECKING:
    import aiohttp

    from paceline.local.load import LoadResult
    from paceline.local.loads import ChosenLoad

PROGRESS_SECONDS: Final = 0.5
ASK_SECONDS: Final = 10.0


@click.command(
    short_help="Load an endpoint that serves already, and report.",
    epilog="""\b
Examples:
  paceline bench http://127.0.0.1:8000 --minutes 1
  paceline bench https://chat.example.com --model Qwen/Qwen3-32B --load agents --ttft 1000 --itl 40
  paceline bench http://127.0.0.1:8000 --load mooncake:trace.jsonl --rate-scale 0.5 -o json
""",
)
@click.argument("url")
@click.option("--model", help="Name that the endpoint knows it by. Default: the first that it serves.")
@click.option(
    "--load",
    "load_kind",
    default="conversation",
    show_default=True,
    metavar="KIND",
    help="conversation, agents, shift, or mooncake:FILE.",
)
@click.option("--minutes", type=MINUTES, default=2.0, show_default=True, help="How much of the load, in its own time.")
@click.option("--start-minute", type=START, default=0.0, help="Where in the trace to begin.")
@click.option("--rate-scale", type=FACTOR, default=1.0, help="Have requests arrive so many times as fast.")
@click.option("--max-model-len", type=click.IntRange(2), metavar="N", help="Leave out requests of more tokens.")
@click.option("--ttft", type=click.IntRange(1, 3_600_000), default=2000, show_default=True, help="Limit in ms.")
@click.option("--itl", type=click.IntRange(1, 60_000), default=50, show_default=True, help="Limit in ms.")
@click.option(
    "--target-percent", type=click.IntRange(1, 100), default=95, show_default=True, help="Within both limits."
)
@click.option("--seed", type=int, default=0, help="Of the generated load.")
@output_format
def bench(
    url: str,
    model: str | None,
    load_kind: str,
    minutes: float,
    start_minute: float,
    rate_scale: float,
    max_model_len: int | None,
    ttft: int,
    itl: int,
    target_percent: int,
    seed: int,
    output: str,
) -> int:
    """Send a load to the OpenAI-compatible endpoint at URL, each request when the trace says, and report latencies and
    how many requests were within the limits. Exits with 1 if that is fewer than --target-percent, or a request failed.

    Prompts are token ids, and answers have exactly the length that the trace says: vLLM and what forwards to it take
    that. An API key is taken from PACELINE_API_KEY.
    """
    import asyncio

    from paceline.api.v1alpha1 import Objective
    from paceline.cli.output import print_document
    from paceline.local.loads import LoadChoice, choose_load
    from paceline.local.report import LoadFacts, make_report, report_lines

    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"URL: {url!r} must begin with http:// or https://, and end before /v1.")
    url = url.rstrip("/").removesuffix("/v1")
    choice = LoadChoice(load_kind, minutes, start_minute, rate_scale, seed)
    load = choose_load(choice, max_model_len=max_model_len, real_engines=False)
    name, result = asyncio.run(_send(url, model, load))
    objective = Objective(ttft_milliseconds=ttft, itl_milliseconds=itl, target_percent=target_percent)
    facts = LoadFacts(
        deployment=name, engines=url, load=load.title, speed=1.0, left_out=load.left_out, malformed=load.trace.malformed
    )
    report = make_report(result, objective, facts)
    if output == TABLE:
        for label, text in report_lines(report):
            # What its caches held only the engines know.
            if label != "cache":
                click.echo(f"{label:12}{text}")
    else:
        print_document(report.as_json(), output)
    return FINE if report.met and not report.failed else NOT_FINE


async def _send(url: str, model: str | None, load: ChosenLoad) -> tuple[str, LoadResult]:
    """Name of the model, and what came of the load."""
    import asyncio

    import aiohttp
    from rich.console import Console
    from rich.progress import Progress

    from paceline.clock import WallClock
    from paceline.local.load import LoadClient, LoadOptions
    from paceline.traces.prompts import PromptMaker

    key = os.environ.get(KEY_ENV)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        name = model or await _first_model(session, url, key)
        options = LoadOptions(url, name, keys=() if key is None else (key,))
        client = LoadClient(options, session=session, prompts=PromptMaker(), clock=WallClock())
        requests = load.trace.requests
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(load.title, total=len(requests))
            sending = asyncio.create_task(client.run(requests))
            try:
                while not (await asyncio.wait({sending}, timeout=PROGRESS_SECONDS))[0]:
                    bar.update(task, completed=sum(one.ended > 0 for one in client.result.requests))
            finally:
                sending.cancel()
        return name, sending.result()


async def _first_model(session: aiohttp.ClientSession, url: str, key: str | None) -> str:
    """The first model that the endpoint serves. Raises EngineError."""
    import aiohttp

    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    try:
        async with session.get(f"{url}/v1/models", headers=headers, timeout=timeout) as answer:
            if answer.status != 200:
                raise EngineError(f"{url}/v1/models answers {answer.status}: name the model with --model.")
            served = (await answer.json(content_type=None))["data"]
            return str(served[0]["id"])
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise EngineError(f"{url} can't be asked: {str(error) or type(error).__name__}.") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise EngineError(f"{url}/v1/models does not say which models there are: name one with --model.") from None
