"""`tfmpq search`: find the bit-widths of a network on a proxy data set."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .device_options import latency_options
from .perform import perform, under
from .search_options import float_epochs, search_options, selection_options, sharpness_options
from .training_options import strategy_option, training_options


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
@options.data_dir
@options.weights("those of a model file, else random ones")
@search_options(latency=True)
@selection_options
@float_epochs(0, "0")
@training_options
@options.preprocess
@click.option(
    "--target-input",
    metavar="N",
    type=click.IntRange(min=1),
    help="Image side in pixels at which the budget counts BOPs.  [default: that of the proxy]",
)
@click.option(
    "--target-classes",
    metavar="N",
    type=click.IntRange(min=2),
    help="Classes for which the budget counts the last layer.  [default: those of the proxy]",
)
@click.option(
    "--imitate",
    is_flag=True,
    help="Learn to give what the float network gives on the proxy's images, not their labels; it keeps the "
    "classes of its weights (--target-classes).",
)
@sharpness_options
@strategy_option
@latency_options
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
        lambda function, reporter: under(strategy, function)(model, proxy, **choices, reporter=reporter),
    )
