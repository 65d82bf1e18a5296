"""`tfmpq export`: write a fine-tuned network as a packed and proved file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tfmpq.containers import TARGETS
from tfmpq.errors import UsageError

from . import options
from .task import perform


@click.command(
    short_help="Write a packed, proved file.",
    epilog=options.example(
        "tfmpq export runs/mobilenet_v2_imagenet --tflite --target litert --out mobilenet_v2.tflite"
    ),
)
@click.argument("run", metavar="RUN", type=options.existing_file_or_folder())
@click.option("--tflite", is_flag=True, help="The format of the file; must be given.")
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="litert",
    show_default=True,
    help="litert: CPUs with dot product or AVX2; litert-int8: older ARM; storage: the smallest file; "
    "tflite-runtime: version 2.14; tflm: microcontrollers.",
)
@click.option(
    "--out",
    metavar="FILE.tflite",
    type=click.Path(dir_okay=False, path_type=Path),
    help="[default: in the run folder]",
)
@options.data_dir
@options.json_option
def export(as_json: bool, run: Path, tflite: bool, **choices: Any) -> None:
    """Export a fine-tuned run as a packed file that is proved equal to what was trained.

    A file that fails the proof is not left behind.
    """
    if not tflite:
        raise UsageError("An export names its format. Received: no format. Add --tflite.")
    perform(
        "export",
        "tfmpq.exporting",
        as_json,
        lambda function, reporter: function(run, **choices, reporter=reporter),
    )
