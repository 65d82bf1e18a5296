"""`tfmpq finetune`: train a network with the bit-widths of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options
from .perform import perform, under
from .training_options import distill, distill_weight, frozen_statistics, strategy_option, training_options


@click.command(
    short_help="Train with a policy on the target.",
    epilog=options.example(
        "tfmpq finetune runs/mobilenet_v2 --target imagenet2012 --weights mobilenet_v2.npz \\",
        "    --epochs 2 --out runs/mobilenet_v2_imagenet",
    ),
)
@click.argument("source", metavar="RUN|POLICY.yaml", type=options.existing_file_or_folder())
@options.data("--target", "Data set to train for")
@options.model(required=False)
@options.data_dir
@options.weights("those of the search, else of a model file")
@training_options
@click.option(
    "--reconstruct/--no-reconstruct",
    default=True,
    show_default=True,
    help="Begin by fitting the quantized layers, one after the other, to those of the float model.",
)
@distill
@distill_weight
@frozen_statistics
@options.preprocess
@strategy_option
@options.run_folder("the given RUN, or runs/MODEL_DATA")
@options.json_option
def finetune(as_json: bool, source: Path, target: str, strategy: str, **choices: Any) -> None:
    """Fine-tune a network with the policy of a search, or with one of yours, on the target data set."""
    perform(
        "finetune",
        "tfmpq.api.finetune",
        as_json,
        lambda function, reporter: under(strategy, function)(source, target, **choices, reporter=reporter),
    )
