"""`tfmpq export`: write a fine-tuned network, or a float one without training, as a proved file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tfmpq.errors import UsageError
from tfmpq.graph.containers import TARGETS
from tfmpq.methods.job_options import QuantizeOptions

from . import options
from .file_options import MICRO_PREFERENCES, file_options, file_request
from .generated import options_of
from .perform import perform


@click.command(
    short_help="Write a packed, proved file.",
    epilog=options.example(
        "tfmpq export runs/mobilenet_v2_imagenet --tflite --target litert --out mobilenet_v2.tflite",
    ),
)
@click.argument("source", metavar="[RUN|MODEL]", required=False)
@click.option("--tflite", is_flag=True, help="The format of the file; must be given.")
@options.target(*TARGETS)
@click.option(
    "--out",
    metavar="FILE.tflite",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.  [default: MODEL.TARGET.tflite in the run folder; of a model: here]",
)
@options.forms("", MICRO_PREFERENCES, "  For tflm: pack for flash, or spare RAM.  [default: flash]")
@file_options()
@options.data(
    "--calibrate",
    "Quantize a float MODEL without training, with images of (random: noise, to try things out)",
    required=False,
)
@click.option("--weight-bits", metavar="N", type=click.IntRange(2, 8), help="With --calibrate: one width.")
@options_of(QuantizeOptions, "activation_bits")
@click.option(
    "--policy",
    metavar="POLICY.yaml",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --calibrate: the width of each layer.",
)
@options_of(
    QuantizeOptions, "weights", "reconstruct", "calibration_images", "views", "preprocessing", "data_dir"
)
@options.json_option
def export(as_json: bool, source: str | None, tflite: bool, calibrate: str | None, **choices: Any) -> None:
    """Export a RUN as a packed file that is proved equal to what was trained; by default the newest in runs/.

    A search that was not fine-tuned is written as its policy quantizes it, without training.
    With --calibrate, a trained float MODEL is quantized without training and written in one go, with all of
    its outputs. A file that fails the proof is not left behind.
    """
    if not tflite:
        raise UsageError("An export names its format. Received: no format. Add --tflite.")
    for_models = {key: choices.pop(key) for key in _FOR_MODELS}
    choices["file"] = file_request(choices)
    choices["forms"] = options.form_request(choices)
    if calibrate is None and not _needs_no_images(source, for_models):
        _refuse_options_of_models(source, for_models)
        perform(
            "export",
            "tfmpq.api.export",
            as_json,
            lambda f, reporter: f(_run(source, reporter), **choices, progress=reporter),
        )
        return
    if source is None:
        raise UsageError("Images calibrate a float model. Received: --calibrate and no model. Name one.")
    perform(
        "quantize",
        "tfmpq.api.quantize",
        as_json,
        lambda function, reporter: function(
            source, calibrate, **for_models, **_in_default_file(choices, source), progress=reporter
        ),
    )


def _needs_no_images(source: str | None, given: dict[str, Any]) -> bool:
    """Whether a model is quantized by widths with which no ranges have to be known."""
    if source is None or (Path(source).is_dir() and not (Path(source) / "saved_model.pb").is_file()):
        return False
    if given["policy"] is None:
        return bool(given["activation_bits"] == "dynamic")
    from tfmpq.policy.policy import load_policy

    return load_policy(given["policy"]).dynamic


def _run(source: str | None, reporter: Any) -> Path:
    """The run that was given, else the newest."""
    if source is not None:
        return Path(source)
    from tfmpq.api.newest import newest_run

    return newest_run(("search", "finetune"), "a finished run", reporter)


def _in_default_file(choices: dict[str, Any], model: str) -> dict[str, Any]:
    """The options of a call with the file that is named after the model, unless one was given."""
    if choices["out"] is None:
        from tfmpq.models.registry import display_name

        choices["out"] = Path(f"{display_name(model)}.{choices['target']}.tflite")
    return choices


_FOR_MODELS = (
    "weight_bits",
    "activation_bits",
    "policy",
    "weights",
    "reconstruct",
    "calibration_images",
    "views",
    "preprocessing",
)


def _refuse_options_of_models(source: str | None, given: dict[str, Any]) -> None:
    if source is not None and not Path(source).is_dir():
        raise UsageError(
            f"A run folder is exported, or a model with images to calibrate it. Received: {source}, no "
            "folder, and no images. Give a fine-tuned run, or --calibrate DATA."
        )
    defaults = QuantizeOptions.defaults()
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value != defaults.get(name)]
    if named:
        raise UsageError(
            f"A run has its bits and weights already. Received: {', '.join(named)} for "
            f"{source or 'the newest run'}. Leave them out, or give a model and --calibrate DATA."
        )
