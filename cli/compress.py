"""`tfmpq compress`: the smallest proved file that keeps a network's accuracy, in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tfmpq.methods.compress_options import CompressOptions

from . import options
from .file_options import app_options, file_request
from .generated import options_of
from .perform import perform


@click.command(
    short_help="Make the smallest file that keeps the accuracy.",
    epilog=options.example(
        "tfmpq compress flowers.keras --calibrate folder:photos --max-drop 1% --out flowers.tflite",
    ),
)
@click.argument("model", metavar="MODEL")
@options.data("--calibrate", "Images to calibrate with; its test part is scored on")
@options_of(CompressOptions, "max_drop", "budgets", "confidence", "limit")
@click.option(
    "--out",
    metavar="FILE.tflite",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; its policy comes beside it.  [default: MODEL.litert.tflite]",
)
@click.option(
    "--front",
    metavar="FILE.html",
    type=options.output_path(),
    help="Draw the whole front on a page: bytes against score, and what every policy is expected to lose.",
)
@options_of(CompressOptions, "weight_bits")
@options.forms("")
@app_options()
@options_of(CompressOptions, "weights", "preprocessing", "data_dir")
@options.json_option
def compress(as_json: bool, model: str, calibrate: str, **choices: Any) -> None:
    """Make the smallest file of a trained MODEL that keeps its accuracy, or the best one within a budget.

    One command from a model and pictures to a proved .tflite: sensitivity of every layer, policy,
    reconstruction, file, proof, score and latency. Nothing is trained. Ends with a table of the float32, the
    int8 and this file, and of the next smaller one, which lost too much.
    """
    choices["file"] = file_request(choices)
    choices["forms"] = options.form_request(choices)
    if choices["out"] is None:
        from tfmpq.models.registry import display_name

        choices["out"] = Path(f"{display_name(model)}.litert.tflite")
    perform(
        "compress",
        "tfmpq.api.compress",
        as_json,
        lambda function, reporter: function(model, calibrate, **choices, progress=reporter),
    )
