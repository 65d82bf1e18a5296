"""`tfmpq measure`: latency of a file on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options
from .task import perform


@click.command(
    short_help="Measure the latency of a .tflite.",
    epilog=options.example("tfmpq measure mobilenet_v2.tflite --threads 4 --out latency.json"),
)
@click.argument("path", metavar="FILE.tflite", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of the runtime.",
)
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Least number of runs.",
)
@click.option(
    "--out", metavar="FILE.json", type=options.output_path(), help="Write the result there as well."
)
@options.json_option
def measure(as_json: bool, path: Path, **choices: Any) -> None:
    """Measure the latency of a .tflite on this machine, one image at a time."""
    perform(
        "measure",
        "tfmpq.deploy.measure",
        as_json,
        lambda function, reporter: function(path, **choices, reporter=reporter),
    )
