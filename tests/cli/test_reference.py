"""docs/reference/cli.md is what the commands say of themselves."""

from __future__ import annotations

from paceline.cli import command_line
from paceline.cli.exit_codes import MEANINGS
from paceline.cli.reference import render
from tests.api.documents import ROOT


def test_the_page_in_the_repository_is_the_one_that_the_commands_make() -> None:
    assert (ROOT / "docs" / "reference" / "cli.md").read_text() == render(), "run make generate"


def test_every_command_with_every_option_and_every_exit_code_is_on_the_page() -> None:
    page = render()
    for name, command in command_line.commands.items():
        section = page.partition(f"## paceline {name}\n")[2].partition("\n## ")[0]
        assert section
        for parameter in command.params:
            for flag in parameter.opts if parameter.param_type_name == "option" else ():
                assert flag in section, (name, flag)
    for code in MEANINGS:
        assert f"| {code} |" in page
