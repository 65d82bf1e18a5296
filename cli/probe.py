"""`tfmpq probe`: what the runtime of this machine does with every kind of weights."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .perform import perform


@click.command(
    short_help="Try every kind of weights on this runtime.",
    epilog=options.example("tfmpq probe --out litert-2.3-pi5.json"),
)
@click.option(
    "--out",
    metavar="FILE.json",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the result there as well.",
)
@options.json_option
def probe(as_json: bool, out: Path | None) -> None:
    """Run single operators with every kind of weights and compare them with exact numbers.

    Says which are exact, off by one, wrong or refused, which XNNPACK takes, and how long they run; and where
    this runtime does other than the rule table counts on.
    """
    perform(
        "probe",
        "tfmpq.deploy.runtime.probe",
        as_json,
        lambda function, reporter: function(out=out, reporter=reporter),
    )
