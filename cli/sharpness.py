"""`tfmpq sharpness`: how sharp the minimum is that a run has found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from tfmpq.methods.common_options import DataOptions

from . import options
from .generated import options_of
from .perform import perform


class Radii(click.ParamType):
    """A comma-separated list of positive numbers."""

    name = "radii"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Parse the text; values that are parsed already pass."""
        if isinstance(value, tuple):
            return value
        try:
            radii = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            radii = ()
        if not radii or not all(0 < radius < math.inf for radius in radii):
            self.fail(f"Radii are positive numbers. Received: {value}. Write 0.01,0.02,0.05.", param, ctx)
        return radii


@click.command(
    short_help="Measure how sharp the minimum of a run is.",
    epilog=options.example("tfmpq sharpness runs/search --radii 0.01,0.05 --limit 256 --json"),
)
@click.argument("run", metavar="RUN", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--radii",
    type=Radii(),
    default="0.01,0.02,0.05",
    show_default=True,
    help="Distances along the gradient at which the rise of the loss is measured.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Number of training images.",
)
@options_of(DataOptions, "data_dir")
@options.json_option
def sharpness(as_json: bool, run: Path, **choices: Any) -> None:
    """Measure the surrogate gap at several radii and the top Hessian eigenvalue of a finished run.

    Of its fine-tuned model or, before that, of its searched policy; on training images, as a function of the
    quantized kernels, the biases and BatchNorm's affine parameters.
    """
    perform(
        "sharpness",
        "tfmpq.api.sharpness",
        as_json,
        lambda function, reporter: function(run, **choices, progress=reporter),
    )
