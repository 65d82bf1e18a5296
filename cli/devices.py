"""`tfmpq devices`: what can be reached, and what each lacks."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .device_options import device_options
from .perform import perform


@click.command(
    short_help="List devices and what each lacks.",
    epilog=options.example("tfmpq devices --on ssh:pi --on adb"),
)
@click.option(
    "--on",
    metavar="TARGET",
    multiple=True,
    help="ssh:HOST, adb[:SERIAL] or local; may be repeated.  [default: local and what adb sees]",
)
@click.option(
    "--setup",
    is_flag=True,
    help="Make a Python environment with numpy and LiteRT on machines behind ssh, in "
    "~/.local/share/tfmpq/venv; the commands are shown. Without this, nothing is installed.",
)
@device_options
@options.json_option
def devices(as_json: bool, **choices: Any) -> None:
    """List devices and what each lacks for measuring, with what to do about it."""
    perform(
        "devices",
        "tfmpq.deploy.devices.discovery",
        as_json,
        lambda function, reporter: function(**choices, reporter=reporter),
    )
