"""`tfmpq verify`: prove a file against the run that it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tfmpq.errors import TfmpqError
from tfmpq.methods.common_options import DataOptions
from tfmpq.methods.job_options import QuantizeOptions

from . import options
from .generated import options_of
from .perform import perform


@click.command(
    short_help="Prove a .tflite against its run.",
    epilog=options.example(
        "tfmpq verify mobilenet_v2.tflite --against runs/mobilenet_v2_imagenet --limit 1000"
    ),
)
@click.argument("path", metavar="FILE.tflite", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--against",
    metavar="RUN|MODEL",
    required=True,
    help="Run folder of the fine-tuning that the file comes from, or the float model that it was made of.",
)
@options_of(QuantizeOptions, "weights")
@options.data(
    "--data", "Data set of the images instead of the run's; its test split is taken", required=False
)
@options_of(DataOptions, "data_dir")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Most images whose answers are compared.",
)
@options.json_option
def verify(as_json: bool, path: Path, against: str, **choices: Any) -> None:
    """Prove that a file holds what was trained, and that the runtime computes it.

    Every integer, scale and bias is read from the file, every operator is recomputed from the runtime's own
    inputs, and answers to real images are compared with the trained model's. The finding is printed whether
    or not the file passes; one that does not is a failure. Against a float MODEL, weights are compared layer
    by layer, and how often both choose the same class is reported.
    """
    found = perform(
        "verify",
        "tfmpq.api.verify",
        as_json,
        lambda function, reporter: function(path, against, **choices, progress=reporter),
    )
    if failures := found.get("failures"):
        first, *rest = failures
        more = f" (and {len(rest)} more)" if rest else ""
        raise TfmpqError(
            f"A file has to hold and compute what was trained. Received: {path}, where {first}{more}. Export "
            "it again, or give the run that it comes from."
        )
