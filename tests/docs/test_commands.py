"""Every command in the pages can be typed as it stands: subcommands, options and values of `paceline`, targets of
make, modules and options of `python -m`, files that kubectl and helm are given.

They are only parsed here. Those that answer in seconds without a cluster, a server, a GPU or the network are run as
well (``test_running``).
"""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from paceline.cli import command_line
from tests.docs.commands import PROGRAMS, commands_of, in_blocks, in_text
from tests.docs.markdown import ROOT, Page, pages

TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
OURS = ("tests.", "paceline", "paceline_worker")
FOLDERS = ("manifests/", "helm/", "crds/", "tests/", "docs/")

every_page = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)


def subcommand(name: str) -> click.Command:
    context = click.Context(command_line)
    found = command_line.get_command(context, name)
    assert found is not None, f"there is no `paceline {name}`"
    return found


def check_paceline(words: list[str], *, whole: bool) -> None:
    name, *arguments = words
    if name.startswith("-"):
        assert name in {"-h", "--help", "--version"}
        return
    command = subcommand(name)
    # Inside a sentence a command may be named without what it needs.
    with command.make_context(name, list(arguments), resilient_parsing=not whole or "--help" in arguments) as context:
        assert context.command is command


def check_module(words: list[str]) -> None:
    if words[:1] != ["-m"] or not words[1].startswith(OURS):
        return
    module = words[1].replace(".", "/")
    source = next(
        path
        for base in (ROOT, ROOT / "operator", ROOT / "worker")
        for path in (base / f"{module}.py", base / module / "__main__.py")
        if path.is_file()
    )
    # A benchmark may take its options from the module that runs them.
    text = source.read_text("utf-8") + "".join(
        path.read_text("utf-8") for path in source.parent.glob("*.py") if path.stem in source.read_text("utf-8")
    )
    for option in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
        assert f'"{option}"' in text, f"{words[1]} has no {option}"


def check(words: list[str], *, whole: bool) -> None:
    program, *arguments = words
    if program == "paceline":
        check_paceline(arguments, whole=whole)
    elif program == "make":
        for target in (word for word in arguments if not word.startswith("-") and "=" not in word):
            assert target in TARGETS, f"there is no `make {target}`"
    elif program == "python":
        check_module(arguments)
    for word in arguments:
        if word.startswith(FOLDERS) and program != "python":
            assert (ROOT / word.rstrip(",")).exists(), f"there is no {word}"


@every_page
def test_commands_in_blocks_can_be_typed(page: Page) -> None:
    for words in in_blocks(page):
        check(words, whole=True)


@every_page
def test_commands_in_the_text_exist(page: Page) -> None:
    for words in in_text(page):
        check(words, whole=False)


def test_commands_in_the_comments_of_samples_can_be_typed() -> None:
    comments = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "manifests" / "samples").glob("*.yaml")))
    found = list(commands_of("\n".join(re.findall(r"^#   (.*)", comments, re.MULTILINE)), prompted=False))
    assert len(found) >= 4
    for words in found:
        check(words, whole=True)


@every_page
def test_python_in_the_pages_compiles(page: Page) -> None:
    for block in page.blocks("python"):
        compile(block.text, f"{page.name}:{block.line}", "exec")


def test_the_checks_find_commands_at_all() -> None:
    everywhere = [words for page in pages() for words in (*in_blocks(page), *in_text(page))]
    assert {words[0] for words in everywhere} == set(PROGRAMS)
    assert len(everywhere) > 60


@pytest.mark.parametrize(
    "line",
    ["$ paceline unheard-of", "$ paceline up FILE --unheard-of", "$ make unheard-of", "$ kubectl apply -f helm/no"],
)
def test_the_checks_refuse_what_is_wrong(line: str) -> None:
    (words,) = commands_of(line, prompted=True)
    with pytest.raises((AssertionError, click.ClickException)):
        check(words, whole=True)


def test_validate_accepts_every_sample_that_the_pages_name() -> None:
    named = {
        word
        for page in pages()
        for words in (*in_blocks(page), *in_text(page))
        for word in words
        if word.startswith("manifests/samples/")
    }
    assert len(named) >= 3
    done = subprocess.run(
        [sys.executable, "-c", "from paceline.cli import main; main()", "validate", *sorted(named)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": valid (") == len(named)
