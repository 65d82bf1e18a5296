"""`tfmpq search`: find the bit-widths of a network on a proxy data set."""

from __future__ import annotations

from typing import Any

import click

from tfmpq.methods.options import SearchOptions

from . import options
from .generated import options_of
from .perform import in_default_run, perform, under
from .training_options import strategy_option


@click.command(
    cls=options.SectionedCommand,
    short_help="Search bit-widths on a proxy data set.",
    epilog=options.example(
        "tfmpq search --model mobilenet_v2 --proxy cifar10 --weights mobilenet_v2.npz \\",
        "    --budget size=0.5x --epochs 5 --out runs/mobilenet_v2",
    ),
)
@options.model(required=True)
@options.data("--proxy", "Data set to search on")
@options_of(SearchOptions)
@strategy_option
@options.run_folder()
@options.json_option
def search(as_json: bool, model: str, proxy: str, strategy: str, **choices: Any) -> None:
    """Search the bit-widths of every layer on a proxy data set, under a budget.

    Writes the policy, a file to read and edit, into the run folder.
    """
    perform(
        "search",
        "tfmpq.api.search",
        as_json,
        lambda function, reporter: under(strategy, function)(
            model, proxy, **in_default_run(choices, model, proxy), progress=reporter
        ),
    )
