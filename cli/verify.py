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
@click.argument(
    "path",
    metavar="[FILE.tflite]",
    required=False,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--against",
    metavar="RUN|MODEL",
    help="Run folder that the file comes from, or the float model that it was made of.  [default: the folder "
    "of the file]",
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
def verify(as_json: bool, path: Path | None, against: str | None, **choices: Any) -> None:
    """Prove that a file holds what was trained, and that the runtime computes it.

    Every integer, scale and bias is read from the file, every operator is recomputed from the runtime's own
    inputs, and answers to real images are compared with the trained model's. The finding is printed whether
    or not the file passes; one that does not is a failure. Against a float MODEL, weights are compared layer
    by layer, and how often both choose the same class is reported. Without FILE, the newest one in a run
    folder of runs/ is taken.
    """
    taken = path

    def call(function: Any, reporter: Any) -> Any:
        nonlocal taken
        if taken is None:
            from tfmpq.api.newest import newest_file

            taken, _ = newest_file(reporter)
        return function(taken, against or str(taken.parent), **choices, progress=reporter)

    found = perform("verify", "tfmpq.api.verify", as_json, call)
    if failures := found.get("failures"):
        first, *rest = failures
        more = f" (and {len(rest)} more)" if rest else ""
        raise TfmpqError(
            f"A file has to hold and compute what was trained. Received: {taken}, where {first}{more}. "
            "Export it again, or give the run that it comes from."
        )
