"""Writes the table of options in docs/cli.md from the commands, whose options come from the records.

Run it after an option has changed: `python docs/options_table.py`. A test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from tfmpq.cli.main import VERBS, main

PAGE = Path(__file__).with_name("cli.md")
_BEGIN, _END = "<!-- options: written by docs/options_table.py -->\n", "<!-- end of options -->"
_DEFAULT = re.compile(r"\s*\[default: (.*)\]$")


def rows() -> Iterator[str]:
    """The table: a row for each option, default and meaning, with the verbs that have it so."""
    yield "| option | verbs | default | meaning |"
    yield "|---|---|---|---|"
    context = click.Context(main)
    found: dict[tuple[str, str, str], list[str]] = {}
    for verb in VERBS:
        command = main.get_command(context, verb)
        for parameter in command.params if command else ():
            if isinstance(parameter, click.Option):
                found.setdefault(_row(parameter), []).append(verb)
    flags = list(dict.fromkeys(name.split()[0] for name, _, _ in found))
    for (name, default, meaning), verbs in sorted(
        found.items(), key=lambda row: flags.index(row[0][0].split()[0])
    ):
        yield f"| `{name}` | {_who(verbs)} | {default} | {meaning} |"


def _who(verbs: list[str]) -> str:
    lacking = [verb for verb in VERBS if verb not in verbs]
    return "all" if not lacking else ", ".join(verbs)


def _row(option: click.Option) -> tuple[str, str, str]:
    """Name with its values, default, and meaning."""
    flags = "/".join((*option.opts, *option.secondary_opts))
    values = "|".join(option.type.choices) if isinstance(option.type, click.Choice) else option.metavar
    if not values and not option.is_flag:
        values = option.type.name.upper()
    text = (option.help or "").replace("|", "\\|")
    told = _DEFAULT.search(text)
    value = option.default
    if option.required:
        default = "required"
    elif told:
        default = told.group(1)
    elif option.is_flag:
        default = "" if option.default is None else "on" if option.default is True else "off"
    else:
        default = f"`{value}`" if isinstance(value, str | int | float) and str(value) else ""
    name = f"{flags} {values or ''}".strip().replace("|", "\\|")
    return name, default, _DEFAULT.sub("", text)


def with_table(page: str) -> str:
    """The page with the table of now."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + _BEGIN + "\n".join(rows()) + "\n" + _END + after


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
