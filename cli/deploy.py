"""`tfmpq deploy`: a network on a device, compared and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tfmpq.methods.common_options import DataOptions

from . import options
from .device_options import benchmark_model_option, device_options, on_option, threads_option
from .generated import options_of
from .perform import perform


@click.command(
    short_help="Run a network on a device: its form, its outputs, its latency.",
    epilog=options.example("tfmpq deploy runs/finetune --data imagenette --on ssh:pi --threads 4"),
)
@click.argument("source", metavar="RUN|FILE.tflite", type=options.existing_file_or_folder())
@options.data("--data", "Data set whose test images are used")
@on_option
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Number of images.",
)
@threads_option
@options_of(DataOptions, "data_dir")
@device_options
@benchmark_model_option
@click.option(
    "--out",
    metavar="FILE.tflite",
    type=options.output_path(),
    help="File to write for the device.  [default: beside the source, named after the form]",
)
@options.json_option
def deploy(as_json: bool, source: Path, data: str, **choices: Any) -> None:
    """Write a network in the form for a device's processor, run it there on real images and measure it.

    The outputs are compared with those of this machine by their distance and by the classes; on Android only
    where --python is a bundle, because benchmark_model shows none.
    """
    perform(
        "deploy",
        "tfmpq.api.deploy",
        as_json,
        lambda function, reporter: function(source, data, **choices, progress=reporter),
    )
