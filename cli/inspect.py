"""`tfmpq inspect`: what a policy, a file, a model or a run holds."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .perform import perform


@click.command(
    short_help="Show a policy, a file, a model or a run.",
    epilog=options.example("tfmpq inspect runs/mobilenet_v2/policy.yaml"),
)
@click.argument(
    "path", metavar="POLICY.yaml|FILE.tflite|MODEL.keras|RUN", type=options.existing_file_or_folder()
)
@options.allow_code
@options.json_option
def inspect(as_json: bool, path: Path) -> None:
    """Show the layers, bit-widths and sizes that a policy, a .tflite or a run holds.

    Of a .keras model, show which layers can be quantized and deployed, and why others cannot.
    """
    perform("inspect", "tfmpq.api.inspect", as_json, lambda function, _: function(path))
