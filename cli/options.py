"""Options that several verbs share, so that they mean and check the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

TARGETS = {
    "auto": "whichever of the next two suits the processor at hand",
    "litert": "CPUs with dot product or AVX2",
    "litert-int8": "older ARM",
    "storage": "the smallest file",
    "tflite-runtime": "version 2.14",
    "tflm": "microcontrollers",
}
"""What a file can be written for, in the words of the help."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Sectioned(click.Option):
    """An option that `SectionedCommand` lists under the heading `section`."""

    def __init__(self, *args: Any, section: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help lists options under the headings that they have."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the plain options first, then a section for each heading."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def existing_file_or_folder() -> click.Path:
    """The type of an argument that names something that must be there."""
    return click.Path(exists=True, path_type=Path)


def output_path() -> click.Path:
    """The type of an option that names something to be written."""
    return click.Path(path_type=Path)


def example(*lines: str) -> str:
    """An epilog for the help, as lines that Click must not wrap."""
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """A callback for numbers that have to be finite."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", ctx=ctx, param=param)
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object to stdout; all else goes to stderr."
)


def _leave_out_damaged(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from tfmpq.data.damaged import skip_damaged

        ctx.with_resource(skip_damaged())


skip_damaged = click.option(
    "--skip-damaged",
    is_flag=True,
    expose_value=False,
    callback=_leave_out_damaged,
    help="Leave out images that cannot be decoded, and say which; otherwise they are errors.",
)


def _allow_code(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from tfmpq.models.own_code import allow_code

        ctx.with_resource(allow_code())


allow_code = click.option(
    "--allow-code",
    is_flag=True,
    expose_value=False,
    callback=_allow_code,
    help="Run the functions in Lambda layers of a model file: only of files that you trust.",
)


def run_folder(default: str = "runs/MODEL_DATA") -> Decorator:
    """The run folder; `default` says which one is taken without the option."""
    return click.option(
        "--out",
        metavar="RUN",
        type=click.Path(file_okay=False, path_type=Path),
        help=f"Run folder; a started one is resumed.  [default: {default}]",
    )


def model(*, required: bool) -> Decorator:
    """The network."""
    return click.option(
        "--model",
        required=required,
        metavar="NAME|FILE.keras|MODULE:FUNCTION",
        help="Built-in network, saved Keras model, or a function of yours that returns one"
        + (" (its module is imported)." if required else ".  [default: the one in the policy]"),
    )


def target(*choices: str) -> Decorator:
    """What a file is for: one of `choices`, of which the help says what they are."""
    return click.option(
        "--target",
        type=click.Choice(choices),
        default="litert",
        show_default=True,
        help="; ".join(f"{name}: {TARGETS[name]}" for name in choices) + ".",
    )


def data(name: str, what: str, *parameters: str, required: bool = True) -> Decorator:
    """A data set."""
    return click.option(
        name,
        *parameters,
        required=required,
        metavar="DATA",
        help=f"{what}: digits, a tensorflow-datasets name (cifar10), npz:PATH, folder:DIR or tfrecord:GLOB.",
    )


FORMS = ("prefer", "processor", "max_scratch", "latency_table")
"""Options of `forms`, which make one request."""


def forms(default: str, more: tuple[str, ...] = (), more_help: str = "") -> Decorator:
    """What decides between the forms of a layer; `default` says what does without the options.

    `more` are values of --prefer for other targets, which `more_help` explains.
    """
    return stack(
        click.option(
            "--prefer",
            type=click.Choice(("balanced", "size", "speed", *more)),
            help="For litert: the form of each layer that is smallest, fastest, or smallest in at most 1.05 "
            f"times the time of int8 (balanced).  [default: {default}balanced]{more_help}",
        ),
        click.option(
            "--processor",
            type=click.Choice(("x86-avx2", "x86-vnni", "arm-dotprod")),
            help="For litert: whose speed counts; arm-dotprod is an estimate that nobody has measured.  "
            f"[default: {default}that of this machine]",
        ),
        click.option(
            "--max-scratch",
            metavar="MIB",
            type=click.FloatRange(min=0),
            callback=finite,
            help="For litert: most memory that one unfolded convolution may take while it runs.  "
            f"[default: {default}32]",
        ),
        click.option(
            "--latency-table",
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="For litert: let the times decide that tfmpq profile measured on the device.",
        ),
    )


def form_request(choices: dict[str, Any]) -> Any:
    """Take the options of `forms` out of all of a verb and make them one request."""
    from tfmpq.graph.forms import FormRequest

    given = {key: choices.pop(key) for key in FORMS}
    if given["max_scratch"] is not None:
        given["max_scratch"] = int(given["max_scratch"] * 2**20)
    return FormRequest(**given)


def stack(*decorators: Decorator) -> Decorator:
    """Apply several option decorators; the help lists them in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate
