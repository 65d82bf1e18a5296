"""`tfmpq profile`: a latency table of a network on a device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from tfmpq.api.device_options import ProfileOptions
from tfmpq.graph.containers import TARGETS

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


def _shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*x[1-9]\d*)?", value):
        raise click.BadParameter(
            f"A size is a side, or height, width and channels. Received: {value}. Write 224 or 28x28x1.",
            ctx,
            param,
        )
    sizes = tuple(int(part) for part in value.split("x"))
    return sizes if len(sizes) == 3 else (*sizes, *sizes, 3)


@click.command(
    short_help="Time a network's layers on a device, for budgets of latency.",
    epilog=options.example(
        "tfmpq profile --model mobilenet_v2 --input 224 --classes 1000 --on ssh:pi --threads 4 \\",
        "    --out mobilenet_v2.pi.json",
    ),
)
@options.model(required=True)
@on_option
@click.option(
    "--input",
    "input_shape",
    metavar="N|HxWxC",
    callback=_shape,
    help="Image side in pixels, for 3 channels, or height, width and channels; a model from a file has its "
    "own.",
)
@click.option(
    "--classes",
    metavar="N",
    type=click.IntRange(min=2),
    help="Number of classes; a model from a file has its own.",
)
@options.target(*TARGETS)
@options_of(ProfileOptions, "weight_bits", "activation_bits")
@threads_option
@affinity_option
@options_of(ProfileOptions, "repeats", "alone")
@device_options
@benchmark_model_option
@click.option(
    "--out",
    metavar="FILE.json",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The table.  [default: MODEL.SIDE.TARGET.latency.json]",
)
@options.json_option
def profile(as_json: bool, model: str, **choices: Any) -> None:
    """Time every layer of a network on a device, in every form that its bit-widths can have.

    Whole networks of random integers run there under the runtime's profiler, one for each width. The table is
    for this network, size, device, runtime and number of threads, and is refused for others.
    """
    perform(
        "profile",
        "tfmpq.deploy.profiling.profile",
        as_json,
        lambda function, reporter: function(model, **choices, reporter=reporter),
    )
