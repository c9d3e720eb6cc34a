"""``paceline status`` for people: an overview as lines and tables of rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from paceline.cli.engines import EngineLine
from paceline.cli.overview import Overview
from paceline.cli.words import ago, duration

STYLES: Final = {
    "ready": "green",
    "starting": "yellow",
    "changing": "yellow",
    "draining": "yellow",
    "ending": "dim",
    "stuck": "bold red",
    "failed": "bold red",
}
LABEL_WIDTH: Final = 11
SHOWN_READY: Final = 20
"""Engines in service that have a line; others always have one."""


def render(overview: Overview) -> RenderableType:
    """One deployment in full: what is wrong comes first."""
    return Group(*_parts(overview))


def render_list(overviews: Sequence[Overview], *, everywhere: bool) -> RenderableType:
    """Deployments, one a line."""
    table = _table(
        *(("NAMESPACE",) if everywhere else ()), "NAME", "READY", "PREFILL:DECODE", "ENGINES", "SLO", "FOR", ""
    )
    for one in overviews:
        ready = sum(role.ready for role in one.roles)
        desired = sum(role.desired for role in one.roles)
        what = one.problems[0].what if one.problems else ("" if one.ready else one.message or one.reason)
        table.add_row(
            *((one.namespace,) if everywhere else ()),
            one.name,
            Text(str(one.ready), style="green" if one.ready else "bold red"),
            one.ratio or "-",
            f"{ready}/{desired}",
            one.attainment or "-",
            duration(one.seconds),
            Text(what, style="" if one.ready else "red"),
        )
    return table


def _parts(one: Overview) -> Iterator[RenderableType]:
    head = Text(f"{one.namespace}/{one.name}  {one.model}  ", style="bold")
    how_long = "" if one.seconds is None else f" for {duration(one.seconds)}"
    verdict = f"ready{how_long}" if one.ready else f"NOT READY{how_long}: {one.reason}"
    yield head + Text(verdict, style="bold green" if one.ready else "bold red")
    if not one.ready and one.message and not any(one.message in problem.what for problem in one.problems):
        yield Text(one.message, style="red")
    for problem in one.problems:
        since = "" if problem.seconds is None else f" (for {duration(problem.seconds)})"
        # A deployment that serves does not cry wolf.
        mark, style = ("note:", "yellow") if one.ready else ("!", "bold red")
        yield Text(f"{mark} {problem.what}{since}", style=style)
        yield Text(f"  {problem.next}\n  $ {problem.command}\n  see {problem.page}")
    yield Text()
    yield from _facts(one)
    if one.doing:
        yield Text()
        yield Text("now", style="bold")
        yield from (Text(f"  {sentence}") for sentence in one.doing)
    if one.roles:
        yield Text()
        yield _roles(one)
    if one.engines:
        yield Text()
        yield _pods("ENGINE", one.engines, roles=True)
    if one.routers:
        yield Text()
        yield _pods("ROUTER", one.routers, roles=False)
    if one.conditions:
        yield Text()
        yield _conditions(one)
    if one.events:
        yield Text()
        yield Text("last events", style="bold")
        for event in one.events:
            times = f" ({event.count} times)" if event.count > 1 else ""
            style = "yellow" if event.type == "Warning" else ""
            yield Text(f"  {ago(event.seconds_ago)}  {event.reason}: {event.message}{times}", style=style)


def _facts(one: Overview) -> Iterator[Text]:
    held = f"{one.accelerators} held" if one.budget is None else f"{one.accelerators} of {one.budget}"
    facts = (
        ("endpoint", one.endpoint or "none yet"),
        ("objective", one.objective),
        ("attained", one.attainment or "not measured yet"),
        ("scaling", one.mode + (f"; the planner would have {one.recommended}" if one.recommended else "")),
        ("GPUs", held),
        ("ratio", one.ratio),
        ("revision", one.revision or ""),
    )
    for label, text in facts:
        if text:
            yield Text.assemble((f"{label:{LABEL_WIDTH}}", "dim"), text)


def _roles(one: Overview) -> Table:
    table = _table("ROLE", "READY", "DESIRED", "STARTING", "DRAINING")
    for role in one.roles:
        style = "" if role.ready >= role.desired else "yellow"
        table.add_row(
            role.role, str(role.ready), str(role.desired), str(role.starting), str(role.draining), style=style
        )
    return table


def _pods(title: str, lines: Sequence[EngineLine], *, roles: bool) -> Table:
    table = _table(title, *(("ROLE",) if roles else ()), "STATE", "NODE", "AGE", "RESTARTS", "WAITS FOR")
    others = [one for one in lines if one.state != "ready"]
    ready = [one for one in lines if one.state == "ready"]
    for one in (*others, *ready[:SHOWN_READY]):
        table.add_row(
            one.pod,
            *((one.role,) if roles else ()),
            Text(one.state, style=STYLES.get(one.state, "")),
            one.node,
            duration(one.age_seconds),
            str(one.restarts),
            one.waits_for,
        )
    if len(ready) > SHOWN_READY:
        table.add_row(Text(f"and {len(ready) - SHOWN_READY} more in service", style="dim"))
    return table


def _conditions(one: Overview) -> Table:
    table = _table("CONDITION", "STATUS", "FOR", "REASON", "MESSAGE")
    for each in one.conditions:
        table.add_row(each.type, each.status, duration(each.seconds), each.reason, each.message)
    return table


def _table(*columns: str) -> Table:
    """As kubectl writes tables: no lines. Names of pods stay whole, the last column takes what room is left."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for number, name in enumerate(columns):
        last = number == len(columns) - 1
        table.add_column(name, no_wrap=not last, overflow="fold")
    return table
