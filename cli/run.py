"""`tfmpq run`: the whole job in one command."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .perform import perform
from .search_options import float_epochs, search_options
from .training_options import distill, training_options


@click.command(
    short_help="Do all of it, to a measured file.",
    epilog=options.example("tfmpq run --model resnet8 --proxy digits --target digits --out runs/digits"),
)
@options.model(required=True)
@options.data("--proxy", "Data set to search on")
@options.data("--target", "Data set to train for")
@options.data_dir
@options.weights("those of a model file, else float training")
@search_options(latency=False)
@float_epochs(None, "those of --epochs without --weights, else 0")
@training_options
@distill
@options.preprocess
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
        lambda function, reporter: function(model, proxy, target, **choices, reporter=reporter),
    )
