"""`tfmpq run`: the whole job in one command."""

from __future__ import annotations

from typing import Any

import click

from tfmpq.methods.job_options import RunOptions

from . import options
from .generated import options_of
from .perform import in_default_run, perform


@click.command(
    short_help="Do all of it, to a measured file.",
    epilog=options.example("tfmpq run --model resnet8 --proxy digits --target digits --out runs/digits"),
)
@options.model(required=True)
@options.data("--proxy", "Data set to search on")
@options.data("--target", "Data set to train for")
@options_of(RunOptions)
@options.run_folder()
@options.json_option
def run(as_json: bool, model: str, proxy: str, target: str, **choices: Any) -> None:
    """Do all of it: search, fine-tune, export, prove, evaluate and measure.

    Ends with one table of the float32, the uniform int8 and the mixed-precision file.
    """
    perform(
        "run",
        "tfmpq.api.run",
        as_json,
        lambda function, reporter: function(
            model, proxy, target, **in_default_run(choices, model, target), progress=reporter
        ),
    )
