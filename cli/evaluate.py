"""`tfmpq evaluate`: accuracy of a model on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tfmpq.methods.common_options import DataOptions, PreprocessOptions

from . import options
from .generated import options_of
from .perform import perform


@click.command(
    short_help="Measure the accuracy of a model.",
    epilog=options.example("tfmpq evaluate mobilenet_v2.tflite --data imagenette --limit 1000 --json"),
)
@click.argument("path", metavar="RUN|FILE.tflite|FILE.keras", type=options.existing_file_or_folder())
@options.data("--data", "Data set to evaluate on")
@options_of(DataOptions, "data_dir")
@click.option(
    "--split",
    type=click.Choice(["train", "test", "all"]),
    default="test",
    show_default=True,
    help="Part of it.",
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Number of images.  [default: all]")
@options_of(PreprocessOptions)
@options.allow_code
@options.json_option
def evaluate(as_json: bool, path: Path, data: str, **choices: Any) -> None:
    """Measure top-1 and top-5 accuracy; of a .tflite by running the very file.

    Of several outputs, each with a number for every class is scored; of the others the reason is given.
    """
    perform(
        "evaluate",
        "tfmpq.api.evaluate",
        as_json,
        lambda function, reporter: function(path, data, **choices, progress=reporter),
    )
