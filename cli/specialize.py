"""`tfmpq specialize`: rewrite a file for the runtime and the CPU that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tfmpq.graph.containers import SPECIALIZED

from . import options
from .perform import perform


@click.command(
    short_help="Rewrite a .tflite for a runtime.",
    epilog=options.example(
        "tfmpq specialize mobilenet_v2.storage.tflite --target auto --out mobilenet_v2.tflite"
    ),
)
@click.argument("path", metavar="FILE.tflite", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options.target("auto", *SPECIALIZED)
@click.option(
    "--out",
    metavar="FILE.tflite",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File to write.",
)
@options.forms("what the file says, or else ")
@options.json_option
def specialize(as_json: bool, path: Path, **choices: Any) -> None:
    """Rewrite a file for a runtime: same integers, scales and biases in other containers.

    Takes no TensorFlow and a fraction of a second, so it also serves on the device itself. The written file
    is read back and every number is compared.
    """
    choices["forms"] = options.form_request(choices)
    perform(
        "specialize",
        "tfmpq.api.specialize",
        as_json,
        lambda function, _: function(path, **choices),
    )
