"""`tfmpq deploy`: a network on a device, compared and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options
from .measure import benchmark_model_option, device_options
from .task import perform


@click.command(
    short_help="Run a network on a device: its form, its outputs, its latency.",
    epilog=options.example("tfmpq deploy runs/finetune --data imagenette --on ssh:pi --threads 4"),
)
@click.argument("source", metavar="RUN|FILE.tflite", type=options.existing_file_or_folder())
@options.data("--data", "Data set whose test images are used")
@click.option(
    "--on",
    metavar="TARGET",
    default="local",
    show_default=True,
    help="local, ssh:HOST with a host of your ssh configuration or user@host, or adb[:SERIAL].",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Number of images.",
)
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of the runtime.",
)
@options.data_dir
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
        "tfmpq.deploy.delivery",
        as_json,
        lambda function, reporter: function(source, data, **choices, reporter=reporter),
    )
