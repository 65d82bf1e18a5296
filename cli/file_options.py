"""Options of a written file: its types, its labels, and what a microcontroller has room for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import Decorator, stack

_NAMES = ("input_type", "output_type", "softmax", "labels", "arena", "c_source")
_TYPES = ("uint8", "int8", "float32")
MICRO_PREFERENCES = ("flash", "ram")
"""Values of --prefer for microcontrollers."""


def file_options() -> Decorator:
    """Types, labels, and what is for microcontrollers."""
    return stack(
        app_options(),
        click.option(
            "--arena",
            metavar="BYTES",
            type=click.IntRange(min=1),
            help="For tflm: most RAM that the runtime may take.",
        ),
        click.option(
            "--c-source",
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            help="For tflm: write the model as C++ source too.",
        ),
    )


def app_options() -> Decorator:
    """Types and labels."""
    return stack(
        click.option(
            "--input-type",
            type=click.Choice(_TYPES),
            help="uint8, int8: pixels as they are, or less 128; float32: preprocessed values.  "
            "[default: the network's own int8 codes]",
        ),
        click.option(
            "--output-type",
            type=click.Choice(_TYPES),
            help="Type of the outputs.  [default: the network's own int8 codes]",
        ),
        click.option("--softmax", is_flag=True, help="End the file in probabilities."),
        click.option(
            "--labels",
            metavar="FILE.txt",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Name of each class, a line each.  [default: the names that the data have]",
        ),
    )


def file_request(choices: dict[str, Any]) -> Any:
    """Take the options of files, and a --prefer for microcontrollers, out of all of a verb."""
    from tfmpq.graph.file_request import FileRequest

    given = {key: choices.pop(key) for key in _NAMES if key in choices}
    prefer = choices.get("prefer")
    if prefer in MICRO_PREFERENCES:
        choices["prefer"] = None
        given["prefer"] = prefer
    return FileRequest(**given)
