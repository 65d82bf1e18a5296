"""`tfmpq finetune`: train a network with the bit-widths of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tfmpq.methods.job_options import FinetuneOptions

from . import options
from .generated import options_of
from .perform import in_default_run, perform, under
from .training_options import strategy_option


class _Source(click.Path):
    """A run folder or file that must be there, or uniform widths, which the verb reads."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A path, or the text of uniform widths."""
        return value if str(value).startswith("uniform:") else super().convert(value, param, ctx)


@click.command(
    short_help="Train with a policy on the target.",
    epilog=options.example(
        "tfmpq finetune runs/mobilenet_v2 --target imagenet2012 --weights mobilenet_v2.npz \\",
        "    --epochs 2 --out runs/mobilenet_v2_imagenet",
    ),
)
@click.argument(
    "source",
    metavar="[RUN|POLICY.yaml|uniform:W[/A]]",
    required=False,
    type=_Source(exists=True, path_type=Path),
)
@options.data("--target", "Data set to train for")
@options.model(required=False)
@options_of(FinetuneOptions)
@strategy_option
@options.run_folder("the given RUN, or runs/MODEL_DATA")
@options.json_option
def finetune(
    as_json: bool, source: Path | str | None, target: str, strategy: str, model: str | None, **choices: Any
) -> None:
    """Fine-tune a network with the policy of a search, or with one of yours, on the target data set.

    Without RUN, the newest search in runs/ is taken. uniform:4 gives all layers between the first and the
    last weights of 4 bits, uniform:2/4 weights of 2 and activations of 4.
    """

    def call(function: Any, reporter: Any) -> Any:
        begin = source
        if begin is None:
            from tfmpq.api.newest import newest_run

            begin = newest_run(("search",), "a finished search", reporter)
        if choices["out"] is None and isinstance(begin, Path) and begin.is_dir():
            choices["out"] = begin
        elif choices["out"] is None and (model or isinstance(begin, Path)):
            from tfmpq.policy.policy import load_policy

            in_default_run(choices, model or load_policy(begin).model, target)
        given = (begin, target) if model is None else (model, begin, target)
        return under(strategy, function)(*given, **choices, progress=reporter)

    perform("finetune", "tfmpq.api.finetune", as_json, call)
