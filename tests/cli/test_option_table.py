"""The options table of docs/cli.md names the verbs that have each option, no more and no less."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import click
import pytest

from tfmpq.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
EVERYWHERE = {"--help", "--version"}


def verbs_with() -> dict[str, set[str]]:
    """Options and the verbs that have them, as the command line has them."""
    found: dict[str, set[str]] = {}
    context = click.Context(main)
    for verb in main.list_commands(context):
        command = main.get_command(context, verb)
        assert command is not None
        for parameter in command.params:
            for flag in parameter.opts if isinstance(parameter, click.Option) else ():
                if flag.startswith("--") and flag not in EVERYWHERE:
                    found.setdefault(flag, set()).add(verb)
    return found


def documented() -> dict[str, set[str]]:
    """The same as the table says it."""
    table = PAGE.read_text().split("\n## Options\n")[1].split("\n##")[0]
    rows = re.findall(r"^\| (`--(?:[^|\\]|\\\|)*) \| ([^|]*) \|", table, re.M)
    verbs = set(main.list_commands(click.Context(main)))
    found: dict[str, set[str]] = {}
    for options, who in rows:
        named = {word for word in re.findall(r"[a-z-]+", who) if word in verbs}
        if who.startswith("all"):
            named = verbs - named
        for flag in re.findall(r"(--[a-z0-9-]+)", options):
            found.setdefault(flag.split("/")[0], set()).update(named)
    return found


def test_the_page_says_what_the_whole_job_does_not_take() -> None:
    """By name, or by the name of the section that the help has."""
    told = PAGE.read_text().split("\n`run` takes the options of")[1].split("\n\n")[0]
    named = tuple(re.findall(r"(--[a-z-]+)", told))
    context = click.Context(main)
    has = {flag for flag, verbs in verbs_with().items() if "run" in verbs}
    for verb in ("search", "finetune"):
        for parameter in main.get_command(context, verb).params:
            heading = getattr(parameter, "section", None)
            if (
                isinstance(parameter, click.Option)
                and heading is None
                and parameter.opts[0] not in EVERYWHERE
            ):
                assert parameter.opts[0] in has or parameter.opts[0].startswith(named), parameter.opts
            elif heading is not None:
                assert {"Sharpness-aware methods": "sharpness", "Budgets of latency": "latency"}[
                    heading
                ] in told


@pytest.mark.parametrize("flag", sorted(verbs_with()))
def test_the_table_names_the_verbs_of_each_option(flag: str) -> None:
    assert documented().get(flag, set()) == verbs_with()[flag]


def test_the_table_is_what_the_script_writes_from_the_options() -> None:
    spec = importlib.util.spec_from_file_location("options_table", PAGE.with_name("options_table.py"))
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.with_table(PAGE.read_text()) == PAGE.read_text(), "run python docs/options_table.py"
