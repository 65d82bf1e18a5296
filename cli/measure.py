"""`tfmpq measure`: latency of files on this machine or on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tfmpq.api.device_options import MeasureOptions

from . import options
from .device_options import (
    affinity_option,
    benchmark_model_option,
    device_options,
    on_option,
    threads_option,
)
from .generated import options_of
from .perform import perform


@click.command(
    short_help="Measure the latency of .tflite files, here or on a device.",
    epilog=options.example("tfmpq measure mobilenet_v2.tflite --on ssh:pi --threads 4 --out latency.json"),
)
@click.argument(
    "paths",
    metavar="[FILE.tflite]...",
    nargs=-1,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@on_option
@threads_option
@options_of(MeasureOptions, "runs")
@affinity_option
@options_of(MeasureOptions, "protocol")
@device_options
@benchmark_model_option
@click.option(
    "--ops",
    is_flag=True,
    help="Time single operators as well, under the runtime's profiler, and show each layer's kernel, bits "
    "and share of the time.",
)
@click.option(
    "--out", metavar="FILE.json", type=options.output_path(), help="Write the result there as well."
)
@options.json_option
def measure(as_json: bool, paths: tuple[Path, ...], **choices: Any) -> None:
    """Measure the latency of .tflite files, one image at a time.

    Every file is timed in 3 fresh processes. Several files take turns and are compared with the first: a
    difference smaller than that between processes of one file is called none. Without an argument, the
    newest file in a run folder of runs/ is measured.
    """

    def call(function: Any, reporter: Any) -> Any:
        if paths:
            return function(paths, **choices, reporter=reporter)
        from tfmpq.api.newest import newest_file

        return function((newest_file(reporter)[0],), **choices, reporter=reporter)

    perform("measure", "tfmpq.deploy.latency.measure", as_json, call)
